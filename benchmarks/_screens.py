"""Screens of invented programs and pages as HTML, drawn by a seed: several of each, in light and dark.

What may differ between two pictures of a pair is marked (`_words.mark`). What is not here: which pairs are made
(`_pairs.py`), and rendering (`_browser.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks._words import clock, figure, mark, moment, noun, person, place, statement, words

PHONE, DESKTOP, SHEET = (591, 1280), (1280, 720), (905, 1280)

# Pairs of one luma (ITU-R BT.601, within 2 of 255): a black-and-white picture shows no difference.
LAMPS = (
    ("rgb(214,48,49)", "rgb(0,158,30)"),
    ("rgb(255,118,117)", "rgb(60,196,210)"),
    ("rgb(200,60,160)", "rgb(0,151,210)"),
)

_CSS = """
*{box-sizing:border-box}body{margin:0;font:%(font)spx 'DejaVu Sans';background:%(back)s;color:%(ink)s}
body{overflow:hidden}s{text-decoration:none}
.bar{background:%(panel)s;padding:14px 20px;border-bottom:1px solid %(line)s}
.faint{color:%(faint)s}
.card{background:%(panel)s;border:1px solid %(line)s;border-radius:10px;padding:14px;margin:12px}
.row{display:flex;justify-content:space-between;align-items:center;gap:12px}
h1,h2{margin:8px 0}p{line-height:1.5;margin:10px 0}
table{border-collapse:collapse;width:100%%}td,th{padding:8px 10px;border-bottom:1px solid %(line)s;text-align:left}
i.lamp{display:inline-block;width:18px;height:18px;border-radius:50%%}svg{vertical-align:middle}.big{font-size:200%%}
i.flag{display:inline-block;width:36px;height:24px;border:1px solid %(line)s}
"""
_LIGHT = {"back": "#eef1f5", "panel": "#fff", "ink": "#1c2430", "faint": "#7a8594", "line": "#d5dbe3"}
_DARK = {"back": "#12161d", "panel": "#1d2430", "ink": "#e6ebf2", "faint": "#8490a2", "line": "#323c4c"}


@dataclass(frozen=True, slots=True)
class Screen:
    """A page to render.

    Attributes:
        html: The whole document.
        size: Width and height of the picture.
    """

    html: str
    size: tuple[int, int]


def screen(app: str, seed: int) -> Screen:
    """Draw one screen of a program."""
    chance = Random(f"{app} {seed}")
    draw, size, font = APPS[app]
    style = _CSS % {**(_DARK if chance.random() < 0.4 else _LIGHT), "font": font}
    return Screen(f"<!doctype html><meta charset=utf-8><style>{style}</style><body>{draw(chance)}", size)


def tick(chance: Random) -> str:
    """A box with or without a tick."""
    return mark("tick", f"<svg width=22 height=22>{_BOX}{_TICK if chance.random() < 0.5 else ''}</svg>")


_BOX = "<rect x=2 y=2 width=18 height=18 rx=3 fill=none stroke=currentColor stroke-width=2 />"
_TICK = '<path d="M6 11l4 5 8-10" fill=none stroke=currentColor stroke-width=2.5 />'


def without_or_with_tick(content: str) -> str:
    """The other state of a box."""
    return content.replace(_TICK, "") if _TICK in content else content.replace(_BOX, _BOX + _TICK)


def lamp(chance: Random) -> str:
    """A round status lamp."""
    return mark("lamp", f'<i class=lamp style="background:{chance.choice(chance.choice(LAMPS))}"></i>')


def flag(chance: Random) -> str:
    """Three stripes in colours of one luma."""
    stripes = [*chance.choice(LAMPS), "#fff"]
    chance.shuffle(stripes)
    return mark("flag", _flag(*stripes))


def _flag(first: str, second: str, third: str) -> str:
    return f'<i class=flag style="background:linear-gradient({first} 33%,{second} 33%,{second} 66%,{third} 66%)"></i>'


def arrow(chance: Random) -> str:
    """An arrow up or down, left or right."""
    turned = chance.choice((0, 90, 180, 270))
    path = '<path d="M13 3v20M5 12l8-9 8 9" fill=none stroke=currentColor stroke-width=3 />'
    return mark("arrow", f'<svg width=26 height=26 style="transform:rotate({turned}deg)">{path}</svg>')


def face(chance: Random, size: int = 44) -> str:
    """A drawn face, its eyes open or shut."""
    skin, eyes = chance.choice(("#f2c79b", "#c98f62", "#8a5a3b")), OPEN_EYES if chance.random() < 0.5 else SHUT_EYES
    hair = f"hsl({chance.randrange(360)} 40% 35%)"
    return mark(
        "face",
        f'<svg width={size} height={size} viewBox="0 0 44 44"><circle cx=22 cy=22 r=21 fill="{hair}"/>'
        f'<ellipse cx=22 cy=26 rx=15 ry=17 fill="{skin}"/>{eyes}'
        '<path d="M16 34q6 4 12 0" stroke=#802 fill=none /></svg>',
    )


OPEN_EYES = "".join(f"<circle cx={x} cy=23 r=2.6 fill=#fff /><circle cx={x} cy=23 r=1.4 />" for x in (16, 28))
SHUT_EYES = '<path d="M13 23q3 2 6 0M25 23q3 2 6 0" stroke=#222 fill=none />'


def _status_bar(chance: Random) -> str:
    return f'<div class="bar row"><b>{clock(chance)}</b><span class=faint>LTE {figure(chance, 100)}%</span></div>'


def _messenger(chance: Random) -> str:
    def bubble() -> str:
        own = chance.random() < 0.5
        text = statement(chance) if chance.random() < 0.3 else words(chance, chance.randrange(2, 11))
        side = "margin-left:110px;background:#2f7de1;color:#fff" if own else "margin-right:110px"
        return f'<div class=card style="{side}">{text}.<div style="text-align:right">{moment(chance)}</div></div>'

    head = f'<div class="bar row">{face(chance)}<b style="flex:1">{person(chance)}</b>{arrow(chance)}</div>'
    return _status_bar(chance) + head + "".join(bubble() for _ in range(9))


def _prices(chance: Random) -> str:
    rows = "".join(
        f'<div class="card row"><span>{words(chance, 2)}</span><b>{figure(chance)} ₽</b></div>' for _ in range(12)
    )
    total = f'<div class="card row big"><b>Итого</b><b>{figure(chance, kind="total")} ₽</b></div>'
    return _status_bar(chance) + f"<div class=bar><h2>{words(chance, 2)}</h2></div>{rows}{total}"


def _transfer(chance: Random) -> str:
    facts = {
        "Получатель": person(chance),
        "Карта": f"•• {mark('digit', f'{chance.randrange(10_000):04}')}",
        "Банк": f"{place(chance)} Банк",
        "Сообщение": words(chance, 3),
        "Комиссия": f"{figure(chance, 500)} ₽",
        "Состояние": f"{lamp(chance)} {statement(chance)}",
    }
    rows = "".join(
        f"<p class=row><span class=faint>{name}</span><span>{fact}</span></p>" for name, fact in facts.items()
    )
    body = (
        f'<div class=card style="text-align:center;margin-top:60px">{arrow(chance)}<h1 class=big>'
        f"{figure(chance, kind='total')} ₽</h1><div class=faint>{statement(chance)}</div></div>"
        f"<div class=card>{rows}</div>"
    )
    return _status_bar(chance) + body


def _chart(chance: Random) -> str:
    bars, values = [], [chance.randrange(40, 380) for _ in range(12)]
    hue = chance.randrange(360)
    for place_, value in enumerate(values):
        left = 60 + place_ * 95
        bars.append(f'<rect x={left} y={430 - value} width=60 height={value} fill="hsl({hue} 60% 50%)"/>')
        bars.append(f"<text x={left + 30} y={420 - value} text-anchor=middle fill=currentColor>{value}</text>")
    legend = " ".join(f"<span>{lamp(chance)} {noun(chance)} {arrow(chance)}</span>" for _ in range(4))
    return (
        f"<div class=bar><h2>{words(chance, 4)}: {figure(chance)}</h2></div><div class=card><svg width=1220 height=440>"
        f"{''.join(bars)}</svg></div><div class='card row'>{legend}</div>"
    )


def _table(chance: Random) -> str:
    rows = "".join(
        f"<tr><td>{words(chance, 2)}<td>{place(chance)}" + "".join(f"<td>{figure(chance)}" for _ in range(4))
        for _ in range(13)
    )
    sums = "".join(f"<td><b>{figure(chance, kind='total')}</b>" for _ in range(4))
    heads = "".join(f"<th>{noun(chance)}" for _ in range(6))
    table = f"<table><tr>{heads}{rows}<tr><td><b>Итого</b><td>{sums}</table>"
    return f"<div class=card><h2>{words(chance, 3)}</h2>{table}</div>"


def _news(chance: Random) -> str:
    paragraphs = "".join(f"<p>{words(chance, 26)}. {statement(chance)}.</p>" for _ in range(5))
    aside = "".join(f"<div class=card>{statement(chance)}</div>" for _ in range(6))
    hue = chance.randrange(360)
    return (
        f'<div class=bar style="background:hsl({hue} 50% 35%);color:#fff"><b>{place(chance)} сегодня</b></div>'
        f'<div class=row style="align-items:start"><div style="width:800px;padding:20px"><h1>{words(chance, 5)}</h1>'
        f'<span class=faint>{moment(chance)}, {person(chance)}</span>{paragraphs}</div><div style="width:380px">{aside}'
        "</div></div>"
    )


def _map(chance: Random) -> str:
    shapes = []
    for _ in range(9):
        x, y, width, height = (chance.randrange(*limits) for limits in ((500,), (1100,), (60, 240), (60, 240)))
        hue = chance.choice((95, 205, 45))
        shapes.append(f'<rect x={x} y={y} width={width} height={height} fill="hsl({hue} 45% 75%)"/>')
    for _ in range(14):
        x, y, to_x, to_y = (chance.randrange(limit) for limit in (591, 1100, 591, 1100))
        width = chance.choice((3, 6, 10))
        shapes.append(f'<path d="M{x} {y}L{to_x} {to_y}" stroke=#f4b942 stroke-width={width} />')
    labels = "".join(
        f'<div style="position:absolute;left:{chance.randrange(400)}px;top:{chance.randrange(150, 1000)}px;color:#222">'
        f"{chance.choice((place, noun))(chance)}</div>"
        for _ in range(14)
    )
    card = (
        f'<div class="card row" style="position:absolute;bottom:0;width:560px"><span class=big>{arrow(chance)}</span>'
        f"<b>{figure(chance, 900)} м</b>{words(chance, 2)}</div>"
    )
    ground = f'<svg width=591 height=1200 style="background:#e8e4da">{"".join(shapes)}</svg>'
    return f"{_status_bar(chance)}<div>{ground}</div>{labels}{card}"


def _settings(chance: Random) -> str:
    rows = "".join(
        f'<div class="card row"><span>{words(chance, 2)}<br><small class=faint>{statement(chance)}</small></span>'
        f"{tick(chance)}</div>"
        for _ in range(13)
    )
    return _status_bar(chance) + f"<div class=bar><h2>{noun(chance)}</h2></div>{rows}"


def _dialog(chance: Random) -> str:
    lines = "".join(f"<p class=faint>{words(chance, 16)}</p>" for _ in range(9))
    box = (
        '<div class=card style="position:absolute;left:390px;top:220px;width:500px;box-shadow:0 8px 30px #0008">'
        f"<h2>{lamp(chance)} {noun(chance)}</h2><p>{statement(chance)}. {words(chance, 4)}.</p>"
        f"<div class=row><span>{tick(chance)} {words(chance, 2)}</span><b>OK</b></div></div>"
    )
    return f'<div class=bar>{words(chance, 3)}</div><div style="padding:20px">{lines}</div>{box}'


def _calendar(chance: Random) -> str:
    def day(number: int) -> str:
        event = f"{lamp(chance)} <small>{noun(chance)} {moment(chance)}</small>" if chance.random() < 0.3 else ""
        return f'<td style="height:98px;vertical-align:top;width:182px">{number}<br>{event}'

    weeks = "".join("<tr>" + "".join(day(week * 7 + number + 1) for number in range(7)) for week in range(5))
    return f"<div class='bar row'><h2>{noun(chance)}</h2>{arrow(chance)}{flag(chance)}</div><table>{weeks}</table>"


def _letter(chance: Random) -> str:
    paragraphs = "".join(f"<p>{words(chance, 24)}. {statement(chance)}.</p>" for _ in range(7))
    boxes = "".join(f"<p>{tick(chance)} {statement(chance)}</p>" for _ in range(3))
    return (
        f'<div style="background:#fff;color:#111;height:1280px;padding:80px 90px"><h2>{words(chance, 3)}</h2>'
        f"{paragraphs}{boxes}<p>Сумма: {figure(chance, kind='total')} руб.</p><p>{person(chance)}</p></div>"
    )


def _board(chance: Random) -> str:
    tiles = "".join(
        f'<div class=card style="width:290px"><div class=row><b>{noun(chance)}</b>{lamp(chance)}</div><div class=row>'
        f"<span class=big>{figure(chance, 999)}</span>{arrow(chance)}{flag(chance)}</div><small class=faint>"
        f"{statement(chance)}</small></div>"
        for _ in range(16)
    )
    return f'<div class=bar><b>{words(chance, 2)}</b></div><div style="display:flex;flex-wrap:wrap">{tiles}</div>'


def _people(chance: Random) -> str:
    rows = "".join(
        f'<div class="card row">{face(chance, 60)}<span style="flex:1">{person(chance)}<br><small class=faint>'
        f"{place(chance)}, {moment(chance)}</small></span>{flag(chance)}{lamp(chance)}</div>"
        for _ in range(10)
    )
    return _status_bar(chance) + f"<div class=bar><h2>{noun(chance)}</h2></div>{rows}"


APPS: dict[str, tuple[Callable[[Random], str], tuple[int, int], int]] = {
    "messenger": (_messenger, PHONE, 19),
    "prices": (_prices, PHONE, 20),
    "transfer": (_transfer, PHONE, 20),
    "chart": (_chart, DESKTOP, 18),
    "table": (_table, DESKTOP, 17),
    "news": (_news, DESKTOP, 17),
    "map": (_map, PHONE, 18),
    "settings": (_settings, PHONE, 19),
    "dialog": (_dialog, DESKTOP, 18),
    "calendar": (_calendar, DESKTOP, 16),
    "letter": (_letter, SHEET, 18),
    "board": (_board, DESKTOP, 18),
    "people": (_people, PHONE, 19),
}
"""Each program: how it is drawn, the size of its picture, and the size of its letters in pixels."""
