"""The page's texts: the same in both languages, none unused, with plurals, numbers and times as each writes them."""

import re
from pathlib import Path
from typing import get_args

import pytest

import sync_job.report
from sync_job.consent.channels import CHANNELS
from sync_job.consent.freshness import Doubt
from sync_job.consent.guards import Guard
from sync_job.errors import Exit
from sync_job.ledger.obligations import Source
from sync_job.report import catalogue, headline
from sync_job.report.words import LANGUAGES, Language, Words

ROOM = Path(sync_job.report.__file__).parent
_PLACE = re.compile(r"\{(\w+)(?:\|([^}]*))?\}")


def _key(name: str) -> str:
    return name.replace(" ", "_").replace("-", "_")


# Keys that are put together from what the product has, and so are not written anywhere.
MADE = {
    *(f"channel_{channel}" for channel in CHANNELS),
    *(f"guard_{_key(one)}" for one in Guard if one is not Guard.LIST),
    *(f"doubt_{_key(one)}" for one in Doubt),
    *(f"do_doubt_{_key(one)}" for one in Doubt if one is not Doubt.SHRUNKEN),  # that one is approved
    *(f"source_{one}" for one in get_args(Source)),
    *(f"kind_{_key(one)}" for one in ("run", "init", "apply", "backfill", "undo", *headline.DRAINS)),
    *(f"stage_{one}" for one in ("read", "decide", "deliver", "report")),
    *(f"stopped_{int(one)}" for one in Exit if one not in (Exit.OK, Exit.ATTENTION, Exit.HELD, Exit.OBLIGATION)),
    "stopped_3_same",
    *(f"do_{code}" for code in (2, 3, 4, 5, 70, 75)),
    *(f"do_approve_{what}" for what in ("grants", "revocations", "clients")),
    *(f"said_{_key(kind)}" for kind in ("backfill", "undo", *headline.DRAINS)),
    *(f"said_held_{what}" for what in ("grants", "revocations")),
    *(f"said_{outcome}" for outcome in ("refused", "exhausted", "deferred")),
    *(f"owed_{name}" for name in ("open", "past_target", "past_limit", "parked")),
    *(f"plot_{name}" for name in ("target", "limit")),
}


def test_everything_that_has_a_name_has_a_text() -> None:
    """A guard, a doubt, an exit code or a kind of run that is new needs its words in the catalogue."""
    assert MADE - catalogue.TEXTS.keys() == set()


@pytest.mark.parametrize("key", catalogue.TEXTS)
def test_both_languages_have_the_same_placeholders(key: str) -> None:
    """A text names the same things in both languages, and each noun has as many forms as its language needs."""
    english, russian = catalogue.TEXTS[key]
    assert {name for name, _ in _PLACE.findall(english)} == {name for name, _ in _PLACE.findall(russian)}
    for text, forms in ((english, 2), (russian, 3)):
        for _, nouns in _PLACE.findall(text):
            assert not nouns or len(nouns.split("|")) == forms, text
        assert not re.search(r"[{}]", _PLACE.sub("", text)), text


@pytest.mark.parametrize("key", catalogue.TEXTS)
def test_a_text_is_in_its_language(key: str) -> None:
    """No English text has Cyrillic letters, and every Russian one that has words has them."""
    english, russian = catalogue.TEXTS[key]
    assert not re.search("[а-яё]", english, re.IGNORECASE)
    same_everywhere = {"SMS", "Push", "ErrorCode", "Message", "HTTP", "SHA-256"}
    assert re.search("[а-яё]", russian, re.IGNORECASE) or russian in same_everywhere
    assert "  " not in english + russian
    assert "—" not in english + russian


def test_no_text_is_without_use() -> None:
    """Every key stands in a module or a template of the room, or is put together from what the product has."""
    sources = [path for path in (*ROOM.glob("*.py"), *ROOM.glob("templates/*")) if path.name != "catalogue.py"]
    written = "\n".join(path.read_text("utf-8") for path in sources)
    reasons = {key for key in catalogue.TEXTS if key.startswith("reason_")}  # as the readers say them
    unused = [key for key in catalogue.TEXTS.keys() - MADE - reasons if not re.search(rf"[\"']{key}[\"']", written)]
    assert unused == []


def test_every_text_that_is_asked_for_is_there() -> None:
    """No module or template asks for a key that the catalogue lacks."""
    asked = re.compile(r'\bwords(?:\.label)?\(\s*"(\w+)"')
    for path in (*ROOM.glob("*.py"), *ROOM.glob("templates/*")):
        missing = set(asked.findall(path.read_text("utf-8"))) - catalogue.TEXTS.keys()
        assert not missing, path.name


@pytest.mark.parametrize(
    ("language", "count", "said"),
    [
        ("en", 0, "0 more files"),
        ("en", 1, "1 more file."),
        ("en", 1204, "1,204 more files"),
        ("ru", 0, "0 файлов"),
        ("ru", 1, "1 файл"),
        ("ru", 3, "3 файла"),
        ("ru", 5, "5 файлов"),
        ("ru", 11, "11 файлов"),
        ("ru", 12, "12 файлов"),
        ("ru", 21, "21 файл"),
        ("ru", 112, "112 файлов"),
        ("ru", 1204, "1\N{NO-BREAK SPACE}204 файла"),
        ("ru", 1_000_001, "1\N{NO-BREAK SPACE}000\N{NO-BREAK SPACE}001 файл"),
    ],
)
def test_a_noun_agrees_with_its_number(language: Language, count: int, said: str) -> None:
    """English has two forms and Russian three; thousands are set apart as each language does."""
    assert said in Words(language)("more_files", n=count)


def test_numbers_are_written_as_the_language_does() -> None:
    """Thousands, the decimal point, minus and percent."""
    assert Words("en").number(-1234.5, 1) == "\N{MINUS SIGN}1,234.5"
    assert Words("ru").number(1234.5, 1) == "1\N{NO-BREAK SPACE}234,5"
    assert Words("en").share(0.95) == "95%"
    assert Words("ru").share(0.015) == "1,5\N{NO-BREAK SPACE}%"


def test_times_are_of_the_zone_and_name_it() -> None:
    """A time is said in the zone that people read, and which one that is."""
    at = 1_795_485_791.0  # 02:03:11 UTC
    assert Words("en").time(at).replace("\N{NO-BREAK SPACE}", " ") == "2026-11-24 02:03 UTC"
    assert Words("ru", "Europe/Moscow").time(at).replace("\N{NO-BREAK SPACE}", " ") == "24.11.2026 05:03 MSK"
    assert Words("en").clock(at) == "02:03:11"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_span_has_a_unit_that_fits(language: Language) -> None:
    """Milliseconds to days, in as few letters as people use."""
    said = [Words(language).span(seconds) for seconds in (0.0042, 1.5, 61.0, 600.0, 9000.0, 259_200.0)]
    units = {"en": ["ms", "s", "s", "min", "h", "days"], "ru": ["мс", "с", "с", "мин", "ч", "дн."]}
    assert [one.split()[1] for one in said] == units[language]


def test_a_placeholder_that_is_missing_is_an_error() -> None:
    """A text is never said with a hole in it."""
    with pytest.raises(KeyError):
        Words("en")("more_files")


def test_the_forms_of_a_language_are_those_of_its_numbers() -> None:
    """What is no whole number goes with the form of many, as a text with a number in it does."""
    assert Words("ru")("more_files", n="1,5").endswith("файла.")
