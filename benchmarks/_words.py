"""Invented text for rendered pictures, drawn by a seed. What is not here: how it is laid out (`_screens.py`)."""

from random import Random

_NOUNS = (
    "вокзал договор маршрут посылка собрание ремонт лекция музыка погода дорога квартира площадь набережная выставка "
    "библиотека команда проект сервер отчёт заявка поставка склад товар скидка оплата возврат доставка магазин рынок "
    "завтрак обед ужин кофе чайник молоко хлеб яблоко груша апельсин морковь капуста рыба мясо сахар соль перец масло "
    "пальто шапка перчатки ботинки рубашка юбка платье свитер куртка ремень сумка рюкзак зонт часы очки книга тетрадь "
    "ручка карандаш бумага ножницы клей лампа стол стул шкаф диван кровать зеркало ковёр окно дверь потолок лестница "
    "поезд автобус трамвай самолёт корабль лодка велосипед мост тоннель перекрёсток светофор остановка билет багаж "
    "врач учитель инженер повар водитель художник актёр режиссёр юрист кассир тренер строитель садовник пекарь сосед "
    "утро вечер полдень полночь неделя месяц январь февраль апрель август октябрь ноябрь суббота пятница среда вторник"
)
_VERBS = (
    "принят отправлен закрыт открыт найден получен оплачен подписан согласован сохранён удалён изменён проверен"
    " готов назначен"
)
_FIRST_NAMES = "Анна Борис Вера Глеб Дарья Егор Жанна Захар Инна Кирилл Лидия Максим Нина Олег Павел Раиса"
_LAST_NAMES = "Белкин Воронец Голубев Дроздов Журавель Зимина Карпенко Лосев Морозко Орлова Рябина Соболь Туманов Ужов"
_PLACES = "Тверь Псков Казань Самара Томск Омск Пермь Уфа Курск Орёл Рязань Тула Калуга Вятка Сызрань Елец"


def _drawn(vocabulary: str, chance: Random) -> str:
    return chance.choice(vocabulary.split())


def mark(kind: str, content: str) -> str:
    """Mark what may be exchanged in a picture of a pair; the mark itself is invisible."""
    return f'<s class="{kind}">{content}</s>'


def noun(chance: Random) -> str:
    """One word."""
    return mark("word", _drawn(_NOUNS, chance))


def words(chance: Random, count: int) -> str:
    """So many words."""
    return " ".join(noun(chance) for _ in range(count))


def other_word(word: str, chance: Random) -> str:
    """Another word, of the same length where there is one."""
    alike = [other for other in _NOUNS.split() if len(other) == len(word) and other != word]
    return chance.choice(alike or [other for other in _NOUNS.split() if other != word])


def statement(chance: Random) -> str:
    """A sentence that a small word turns round."""
    return f"{noun(chance).capitalize()} {mark('negation', '')}{_drawn(_VERBS, chance)}"


def person(chance: Random) -> str:
    """A name."""
    return f"{mark('word', _drawn(_FIRST_NAMES, chance))} {mark('word', _drawn(_LAST_NAMES, chance))}"


def place(chance: Random) -> str:
    """A town."""
    return mark("word", _drawn(_PLACES, chance))


def figure(chance: Random, most: int = 99_999, kind: str = "digit") -> str:
    """A number of up to five digits."""
    return mark(kind, f"{chance.randrange(10, most):,}".replace(",", " "))


def clock(chance: Random) -> str:
    """A time of day."""
    return mark("clock", f"{chance.randrange(24):02}:{chance.randrange(60):02}")


def moment(chance: Random) -> str:
    """A time of day inside a text, which is a number like others."""
    return mark("digit", f"{chance.randrange(24):02}:{chance.randrange(60):02}")
