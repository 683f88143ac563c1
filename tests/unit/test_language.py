"""The language of a post: told where it is sure, and never guessed."""

import subprocess
import sys

import pytest

from vision_assets.core.language import language_of

POSTS = [
    (
        "ru",
        "Коллеги, завтра в офисе отключат воду с десяти до двух.",
        "Запаситесь заранее: кулер на кухне пуст, а новую воду привезут только к вечеру.",
    ),
    (
        "ru",
        "Кто едет в субботу на дачу? Есть два места в машине.",
        "Выезжаем в семь утра от метро, обратно в воскресенье.",
    ),
    ("ru", "СКИДКИ НА ВСЁ ДО ПОНЕДЕЛЬНИКА.", "ПРИХОДИТЕ ВСЕЙ СЕМЬЁЙ!"),
    ("en", "Reminder: the water will be off in the office tomorrow.", "Please fill a bottle in the morning."),
    ("en", "Is anyone driving to the countryside on Saturday?", "I need a lift and can pay for the petrol."),
    ("uk", "Колеги, завтра в офісі вимкнуть воду з десятої до другої.", "Запасіться заздалегідь, кулер порожній."),
    ("be", "Калегі, заўтра ў офісе адключаць ваду з дзясятай да другой.", "Запасіцеся загадзя, кулер пусты."),
    ("bg", "Колеги, утре в офиса ще спрат водата от десет до два часа.", "Напълнете си шишета сутринта."),
    ("kk", "Әріптестер, ертең кеңседе сағат оннан екіге дейін су болмайды.", "Алдын ала дайындалыңыз."),
    ("de", "Morgen wird im Büro von zehn bis zwei das Wasser abgestellt.", "Bitte füllt euch vorher Flaschen ab."),
    ("fr", "Demain, l'eau sera coupée au bureau de dix heures à midi.", "Remplissez une bouteille le matin."),
    ("es", "Mañana cortarán el agua en la oficina desde las diez hasta las dos.", "Llenad una botella por la mañana."),
    ("tr", "Yarın ofiste saat ondan ikiye kadar sular kesilecek.", "Sabahtan bir şişe su doldurun."),
    ("uz", "Hamkasblar, ertaga idorada soat o'ndan ikkigacha suv bo'lmaydi.", "Oldindan tayyorlaning."),
    ("zh", "明天上午十点到下午两点办公室停水。", "请大家早上提前接好水。"),
    ("ar", "غدا ستنقطع المياه في المكتب من العاشرة حتى الثانية.", "يرجى ملء زجاجة في الصباح."),
]


@pytest.mark.parametrize(("language", "first", "second"), POSTS)
def test_a_post_tells_its_language(language: str, first: str, second: str) -> None:
    """A few sentences are enough, in close relatives of Russian too."""
    assert language_of(f"{first}\n{second}") == language


@pytest.mark.parametrize(("language", "first", "second"), POSTS)
def test_no_sentence_is_taken_for_another_language(language: str, first: str, second: str) -> None:
    """Of one sentence it may not be sure; then it does not tell."""
    assert {language_of(first), language_of(second)} <= {language, None}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n\n ",
        "🔥🔥🔥 👍🏽",
        "+7 495 000-00-00, 12:30",
        "Ок",
        "Доброе утро",
        "Нева, закат",
        "Kubernetes 1.34, PostgreSQL 18",
        "https://example.org/una/pagina/en/castellano/sobre/la/oficina",
        "#погода #дождь #Москва #новости #вторник #осень",
        "@anna_schmidt @lukas_mueller @heute_im_fernsehen",
    ],
)
def test_nothing_is_guessed(text: str) -> None:
    """Without a sentence there is no answer."""
    assert language_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"{first} {second}" for language, first, second in POSTS if language in ("ru", "de")),
        "\n".join(f"{first} {second}" for language, first, second in POSTS if language in ("en", "fr")),
        "Всем привет и добро пожаловать на наш канал! Hello everyone and welcome to our channel!",
    ],
)
def test_a_mixed_post_has_no_language(text: str) -> None:
    """Two languages in a post are none, in lines of their own or in one."""
    assert language_of(text) is None


def test_what_is_no_language_does_not_count() -> None:
    """English links, tags, addresses and emoji around a Russian sentence change nothing."""
    post = (
        "🚀🚀 Вышла новая версия, обновляйтесь и пишите, если что-то сломалось 🙏\n"
        "https://example.org/releases/what-is-new-in-this-version-and-how-to-install-it\n"
        "example.com/download-the-latest-version-here t.me/the_best_channel_in_the_world\n"
        "#release #whatsnew #download @support_of_the_channel support@example.org"
    )
    assert language_of(post) == "ru"


def test_the_model_is_loaded_when_it_is_needed() -> None:
    """A process that asks for no language, or for that of a tag alone, does not load it."""
    program = (
        "from vision_assets.core import language as l\n"
        "l.language_of('#осень'); print(l._identifier.cache_info().currsize)\n"
        "l.language_of('Осень в этом году пришла рано.'); print(l._identifier.cache_info().currsize)\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["0", "1"]
