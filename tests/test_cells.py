from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent import tokens
from sync_job.consent.channels import ALLOWED, BLANK, DENIED, LAST_ID
from sync_job.consent.tables import UNTIMED
from sync_job.exports import cells

MOSCOW, BERLIN, UTC_ZONE = ZoneInfo("Europe/Moscow"), ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")


def _reasons(problems: cells.Problems) -> list[str]:
    """Return each row's reasons, joined."""
    columns = [one.to_pylist() for one in problems.texts(pa.array(range(problems.rows), pa.int64()))]
    return ["; ".join(text for text in row if text) for row in zip(*columns, strict=True)] or [""] * problems.rows


def _ids(array: pa.Array, thousands: str = "") -> tuple[list[int], list[str]]:
    problems = cells.Problems(len(array))
    found = cells.read_ids(array, "Client", problems, thousands)
    assert found.dtype == np.int32
    assert problems.bad.tolist() == (found == 0).tolist()
    return found.tolist(), _reasons(problems)


def _flags(array: pa.Array, words: cells.Words = cells.AS_BUILT) -> tuple[list[int], list[str], dict[str, int]]:
    problems, tokens = cells.Problems(len(array)), Counter[str]()
    found = cells.read_flags(array, "AllowSms", problems, tokens, words)
    return found.tolist(), _reasons(problems), dict(tokens)


def _times(array: pa.Array, zone: ZoneInfo = UTC_ZONE) -> tuple[list[datetime | None], list[str]]:
    problems = cells.Problems(len(array))
    found = cells.read_times(array, "at", zone, problems)
    assert found.dtype == np.int64
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    said = [None if one == UNTIMED else epoch + timedelta(microseconds=one) for one in found.tolist()]
    return said, _reasons(problems)


# ids


@pytest.mark.parametrize(
    ("text", "id_"),
    [
        ("1", 1),
        ("2147483647", LAST_ID),
        ("000123", 123),
        (" 123\t", 123),
        ("\u00a0123", 123),
        ("0" * 30 + "7", 7),
        ("\u202f123\u00a0", 123),
        ("12345.0", 12345),
        ("12345.000", 12345),
        ("7.00", 7),
    ],
)
def test_digits_are_an_id(text: str, id_: int) -> None:
    """Blanks around and zeros in front do not matter."""
    assert _ids(pa.array([text])) == ([id_], [""])


@pytest.mark.parametrize(
    "text", ["abc", "12.5", "12345,0", "1,234", "1 234", "0x1F", "+5", "1 2", "1_0", "٣", "１", "--1", "-", "1\0"]
)
def test_what_is_no_whole_number_is_no_id(text: str) -> None:
    """Nothing is guessed: a fraction, a comma or another script's digits make no id."""
    assert _ids(pa.array([text])) == ([0], [f"Client: not a whole number '{text}'"])


@pytest.mark.parametrize("text", ["0", "-0", "-5", "2147483648", "9223372036854775808", "9" * 20, "-" + "9" * 20])
def test_a_number_that_no_client_has_is_told_with_the_range(text: str) -> None:
    """The platform's ids are signed 32-bit integers from 1."""
    assert _ids(pa.array([text])) == ([0], [f"Client: outside 1 to 2147483647 '{text}'"])


@pytest.mark.parametrize("text", ["", "  ", "\t", None])
def test_an_empty_cell_is_no_id(text: str | None) -> None:
    """Empty, blank and null are one and the same."""
    assert _ids(pa.array([text], pa.string())) == ([0], ["Client: no id"])


BLANKS = " \u00a0\u202f\u2009"
SEPARATORS = {"": "", " ": BLANKS, ",": ",", "'": "'\u2019"}
LIKE_IDS = st.one_of(
    st.text("0159-+.,' \u00a0ex\tя", max_size=14),
    st.integers().map(str),
    st.integers(0, 10**10).map("{:,}".format),
    st.integers(0, 10**10).map("{:,}.0".format).map(lambda text: text.replace(",", " ")),
    st.floats(0, 1e12).map("{:.2E}".format),
)


def _plain_id(text: str | None, thousands: str) -> int:
    """Return the id that a person reads in a cell, 0 for none."""
    left = (text or "").strip()
    groups = [left]
    for mark in SEPARATORS[thousands]:
        groups = [part for group in groups for part in group.split(mark)]
    head, dot, zeros = groups[-1].partition(".")
    if dot and (not zeros or set(zeros) != {"0"}):
        return 0
    digits = [*groups[:-1], head]
    if not all(one and set(one) <= set("0123456789") for one in digits):
        return 0
    if len(digits) > 1 and not (len(digits[0]) <= 3 and all(len(one) == 3 for one in digits[1:])):
        return 0
    if not thousands and zeros == "000" and len(head) <= 3:
        return 0
    number = int("".join(digits))
    return number if number <= LAST_ID else 0


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(st.none(), LIKE_IDS)), st.sampled_from(list(SEPARATORS)))
def test_ids_in_text_are_those_of_a_plain_reading(texts: list[str | None], thousands: str) -> None:
    """Strip, take groups of three apart, leave a fraction of zeros: one by one or all at once; why is always said."""
    found, why = _ids(pa.array(texts, pa.string()), thousands)
    assert found == [_plain_id(text, thousands) for text in texts]
    assert [not one for one in found] == [bool(one) for one in why] or not texts


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.uint8(),
        pa.uint16(),
        pa.uint32(),
        pa.uint64(),
        pa.float32(),
        pa.float64(),
        pa.decimal128(20, 2),
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.int64()),
    ],
    ids=str,
)
def test_an_id_is_read_from_any_type_that_holds_whole_numbers(kind: pa.DataType) -> None:
    """1, 0, nothing and 127 in each type."""
    texts = pa.array(["1", "0", None, "127"])
    if pa.types.is_dictionary(kind):
        array = texts.cast(kind.value_type).dictionary_encode().cast(kind)
    else:
        array = texts.cast(kind)
    found, why = _ids(array)
    assert found == [1, 0, 0, 127]
    assert why[0] == why[3] == ""
    assert why[1].startswith("Client: outside 1 to 2147483647 '0")
    assert why[2] == "Client: no id"


@pytest.mark.parametrize("kind", [pa.uint32(), pa.int64(), pa.uint64()], ids=str)
def test_an_integer_beyond_the_range_does_not_wrap(kind: pa.DataType) -> None:
    """2³² - 1 would be -1, and 2³² + 1 would be client 1, in 32 bits."""
    numbers = [2**31 - 1, 2**31, 2**32 - 1] + ([2**32 + 1] if kind != pa.uint32() else [])
    assert _ids(pa.array(numbers, kind))[0] == [LAST_ID] + [0] * (len(numbers) - 1)


def test_floats_are_ids_where_they_are_whole() -> None:
    """As pandas writes integers with gaps; NaN, infinity and halves are told."""
    found, why = _ids(pa.array([1.0, 2147483647.0, 1.5, float("nan"), float("inf"), 1e300, -3.0, None]))
    assert found == [1, LAST_ID, 0, 0, 0, 0, 0, 0]
    kinds = [one.split(" '")[0].removeprefix("Client: ") for one in why]
    outside = "outside 1 to 2147483647"
    assert kinds == ["", "", "not a whole number", "no id", outside, outside, outside, "no id"]


@pytest.mark.parametrize("text", ["1.23E+09", "1,23E+09", "1e9", "1E5", "2.0e0", "-1e-3", "1.E+9"])
def test_scientific_notation_lost_its_digits(text: str) -> None:
    """1.23E+09 was 1234567890 once, or any of ten million others: nobody can tell."""
    why = f"Client: scientific notation, as Excel writes it: digits are lost '{text}'"
    assert _ids(pa.array([text])) == ([0], [why])


@pytest.mark.parametrize("text", ["12.000", "1.000", "123.000"])
def test_three_zeros_behind_a_point_may_be_thousands(text: str) -> None:
    """Client 12 and client 12000 are two people; where thousands are declared, the point begins a fraction."""
    assert _ids(pa.array([text])) == ([0], [f"Client: thousands or a fraction, nobody can tell '{text}'"])
    assert _ids(pa.array([text]), ",") == ([int(float(text))], [""])


@pytest.mark.parametrize(
    ("thousands", "text", "id_"),
    [
        (" ", "1 234 567", 1234567),
        (" ", "1\u00a0234\u00a0567", 1234567),
        (" ", "1\u202f234", 1234),
        (" ", " 12 345.0 ", 12345),
        (",", "1,234,567", 1234567),
        (",", "1234567", 1234567),
        (",", "12,345.00", 12345),
        ("'", "1'234'567", 1234567),
        ("'", "1\u2019234", 1234),
        (",", "1,23", 0),
        (",", "1234,567", 0),
        (",", "1,234,56", 0),
        (",", ",234", 0),
        (",", "1 234", 0),
        (" ", "1,234", 0),
        (" ", "1  234", 0),
        ("'", "1.234", 0),
        (",", "1,234.5", 0),
        ("", "1'234", 0),
    ],
)
def test_thousands_are_set_apart_where_the_configuration_says_so(thousands: str, text: str, id_: int) -> None:
    """In groups of three and no others, for 1,23 may be a fraction, and 12 345 two ids."""
    found, why = _ids(pa.array([text]), thousands)
    assert found == [id_]
    assert why == [""] if id_ else why[0].startswith("Client: not a whole number")


@pytest.mark.parametrize(
    ("kind", "exact", "lost"), [(pa.float16(), 2048, 4096), (pa.float32(), 2**24, 2**24 + 2)], ids=str
)
def test_a_float_that_is_too_small_for_its_number_is_no_id(kind: pa.DataType, exact: int, lost: int) -> None:
    """In 32 bits, 16777217 and 16777216 are one and the same number, and two clients."""
    array = pa.array(np.array([exact, lost], np.float32).astype(kind.to_pandas_dtype()), kind)
    found, why = _ids(array)
    assert found == [exact, 0]
    assert "digits are lost" in why[1]


@pytest.mark.parametrize("values", [pa.array([7, 2**31]), pa.array([7.0, float("nan")]), pa.array([7.0, 1.5])])
def test_a_dictionary_of_numbers_is_read_as_its_numbers(values: pa.Array) -> None:
    """Not as the text that they would be shown as."""
    assert _ids(pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), values))[0] == [7, 0, 0]


@pytest.mark.parametrize("array", [pa.array([True]), pa.array([date(2024, 1, 1)]), pa.array([datetime(2024, 1, 1)])])
def test_other_types_hold_no_ids(array: pa.Array) -> None:
    """A boolean is no number here, and a date is none either."""
    assert _ids(array)[0] == [0]


# flags


@pytest.mark.parametrize("token", ["true", "1", "1.0", "yes", "y", "t", "да", "д", "истина"])
def test_a_yes_is_allowed(token: str) -> None:
    """In any case, with blanks around."""
    found = _flags(pa.array([token, token.upper(), token.title(), f" {token}\t"]))
    assert found[:2] == ([ALLOWED] * 4, [""] * 4)


@pytest.mark.parametrize("token", ["false", "0", "0.0", "no", "n", "f", "нет", "н", "ложь"])
def test_a_no_is_denied(token: str) -> None:
    """In any case, with blanks around."""
    found = _flags(pa.array([token, token.upper(), token.title(), f" {token}\u00a0"]))
    assert found[:2] == ([DENIED] * 4, [""] * 4)


def test_an_empty_cell_states_nothing() -> None:
    """Empty, blank and null alike: no statement and no problem."""
    assert _flags(pa.array(["", "  ", None])) == ([BLANK] * 3, [""] * 3, {"": 2, "  ": 1})


@pytest.mark.parametrize(
    "token", ["maybe", "2", "-1", "null", "None", "on", "✓", "1.5", "yes!", "true;false", "f alse", "#N/A"]
)
def test_an_unknown_token_is_a_problem_and_never_false(token: str) -> None:
    """It states nothing, and the reason shows it."""
    assert _flags(pa.array([token])) == ([BLANK], [f"AllowSms: unknown token '{token}'"], {token: 1})


def test_tokens_are_counted_as_they_are_written() -> None:
    """Neither trimmed nor in lower case, for this is how a person sees that the export has changed."""
    said = ["1", "1", " 1", "да", "ДА", None, "", "qq"]
    assert _flags(pa.array(said))[2] == {"1": 2, " 1": 1, "да": 1, "ДА": 1, "": 2, "qq": 1}


def test_a_column_of_many_tokens_is_counted_in_bounded_memory() -> None:
    """What comes after a thousand distinct tokens is counted together, and none is lost."""
    problems, tokens = cells.Problems(3000), Counter[str]()
    for block in range(3):
        texts = pa.array([f"{block}-{i}" for i in range(3000)])
        cells.read_flags(texts, "AllowSms", problems, tokens)
    assert len(tokens) <= 1002
    assert tokens.total() == 9000
    assert tokens[cells.OTHERS] >= 7999


@pytest.mark.parametrize(
    "array",
    [
        pa.array([True, False, None]),
        pa.array([1, 0, None], pa.int8()),
        pa.array([1, 0, None], pa.uint64()),
        pa.array([1.0, 0.0, None]),
        pa.array([1.0, 0.0, float("nan")]),
        pa.array([1.0, 0.0, float("nan")], pa.float32()),
        pa.array(["1.00", "0.00", None]).cast(pa.decimal128(5, 2)),
        pa.DictionaryArray.from_arrays(pa.array([1, 0, 2]), pa.array([0.0, 1.0, float("nan")])),
        pa.array(["да", "нет", None]),
        pa.array(["да", "нет", None], pa.large_string()),
        pa.array(["да", "нет", None], pa.string_view()),
        pa.array(["да", "нет", None], pa.binary()),
        pa.array(["T", "F", None]).dictionary_encode(),
        pa.array([1, 0, None]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([1, 0, 2]), pa.array(["0", "1", None])),
    ],
    ids=lambda array: str(array.type),
)
def test_a_flag_is_read_from_any_type(array: pa.Array) -> None:
    """Booleans, numbers and strings, plain or by dictionary; a null states nothing."""
    assert _flags(array)[:2] == ([ALLOWED, DENIED, BLANK], [""] * 3)


def test_a_column_of_nulls_states_nothing() -> None:
    """A Parquet column may have no type at all."""
    assert _flags(pa.nulls(2)) == ([BLANK] * 2, [""] * 2, {"": 2})


def test_an_integer_flag_other_than_0_and_1_is_unknown() -> None:
    """2 is no yes."""
    assert _flags(pa.array([2, -1]))[0] == [BLANK, BLANK]


@pytest.mark.parametrize("index", [-1, 2, 3])
def test_a_dictionary_that_lacks_an_index_is_an_error(index: int) -> None:
    """A damaged file is never read as some other token."""
    damaged = pa.DictionaryArray.from_arrays(pa.array([0, index]), pa.array(["0", "1"]), safe=False)
    with pytest.raises(ValueError, match="beyond its dictionary"):
        _flags(damaged)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()], ids=str)
def test_bytes_that_are_not_utf8_are_an_unknown_token(kind: pa.DataType) -> None:
    """They are shown as U+FFFD, also where the column claims to be UTF-8."""
    bad = pa.array([b"\xe9", b"1"], pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind)
    assert _flags(bad) == ([BLANK, ALLOWED], ["AllowSms: unknown token '\ufffd'", ""], {"\ufffd": 1, "1": 1})


def test_more_tokens_say_what_the_configuration_says() -> None:
    """In any case, with blanks around; what is built in says the same as ever."""
    words = cells.Words.of({"on": ALLOWED, "согласен": ALLOWED, "off": DENIED, "null": BLANK, "-": BLANK})
    said = ["on", " ON ", "Согласен", "Off", "NULL", "-", "1", "нет", "", "none"]
    found, why, tokens = _flags(pa.array(said), words)
    assert found == [ALLOWED, ALLOWED, ALLOWED, DENIED, BLANK, BLANK, ALLOWED, DENIED, BLANK, BLANK]
    assert why == [""] * 9 + ["AllowSms: unknown token 'none'"]
    assert tokens == dict.fromkeys(said, 1)


def test_a_column_may_say_the_opposite() -> None:
    """Yes in a column called DoNotCall is a denial; raw tokens are counted, and a blank says what is said of blanks."""
    said = ["1", "да", "0", "no", "x", "", None]
    for blank in (BLANK, DENIED):
        words = cells.Words.of({"x": ALLOWED}, blank=blank, inverted=True)
        found, _, tokens = _flags(pa.array(said), words)
        assert found == [DENIED, DENIED, ALLOWED, ALLOWED, DENIED, blank, blank]
        assert tokens == {"1": 1, "да": 1, "0": 1, "no": 1, "x": 1, "": 2}
        assert _flags(pa.nulls(1), words)[0] == [blank]
        assert cells.blanks_and_denials(Counter(tokens), words) == (2, 3)
    assert cells.blanks_and_denials(Counter({"1": 3, "0": 2, " ": 4})) == (4, 2)


KNOWN = ("true", "1", "1.0", "да", "f", "0", "Нет", "on", "off", "-", "", "s", " S", "O")
MORE = st.dictionaries(st.sampled_from(["on", "off", "-", "s", "o"]), st.sampled_from([ALLOWED, DENIED, BLANK]))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from(KNOWN), st.text("1onsда -", max_size=4)), max_size=20),
    MORE,
    st.booleans(),
    st.sampled_from([BLANK, DENIED]),
)
def test_flags_are_those_of_a_plain_reading(
    texts: list[str | None], more: dict[str, int], inverted: bool, blank: int
) -> None:
    """Strip, lower, look up, turn: an *allowed* never comes from anything but a token that says so."""

    def plain(text: str | None) -> int | None:
        token = (text or "").strip().lower()
        if not token:
            return blank
        said = {**tokens.BUILT_IN, **more}.get(token)
        return {ALLOWED: DENIED, DENIED: ALLOWED}.get(said, said) if inverted and said is not None else said

    expected = [plain(text) for text in texts]
    words = cells.Words.of(more, blank=blank, inverted=inverted)
    for array in (pa.array(texts, pa.string()), pa.array(texts, pa.large_string()).dictionary_encode()):
        found, why, _ = _flags(array, words)
        assert found == [BLANK if one is None else one for one in expected]
        assert [bool(one) for one in why] == [one is None for one in expected] or not texts


# problems


def test_a_row_names_all_of_its_problems() -> None:
    """In the order in which the columns were read; other rows have their own."""
    problems = cells.Problems(3)
    cells.read_ids(pa.array(["x", "1", "2"]), "Client", problems)
    cells.read_flags(pa.array(["q", "1", "r"]), "AllowSms", problems, Counter())
    cells.read_times(pa.array(["now", "", "2024-01-01"]), "at", UTC_ZONE, problems)
    assert problems.bad.tolist() == [True, False, True]
    assert _reasons(problems) == [
        "Client: not a whole number 'x'; AllowSms: unknown token 'q'; at: no ISO 8601 time 'now'",
        "",
        "AllowSms: unknown token 'r'",
    ]


def test_problems_are_counted_without_what_the_cells_hold() -> None:
    """A cell may hold an address by mistake, and counts go into reports: not even with the marks of a reason in it."""
    problems = cells.Problems(3)
    cells.read_flags(pa.array(["a; b", "x 'y'; z", "1"]), "AllowSms", problems, Counter())
    assert problems.counts == {"AllowSms: unknown token": 2}


def test_a_long_cell_is_shown_in_part() -> None:
    """Sixty characters tell enough."""
    assert _flags(pa.array(["я" * 1000]))[1] == [f"AllowSms: unknown token '{'я' * 60}'"]


def test_text_of_any_value_can_be_shown() -> None:
    """Bytes with replacements, nested values as Python prints them, nulls as nulls."""
    assert cells.to_text(pa.array([b"a\xff", None])).to_pylist() == ["a\ufffd", None]
    assert cells.to_text(pa.array([[1, 2], None])).to_pylist() == ["[1, 2]", None]
    assert cells.to_text(pa.array([{"a": 1}])).to_pylist() == ["{'a': 1}"]
    assert cells.to_text(pa.chunked_array([["a"], ["b"]])).to_pylist() == ["a", "b"]
    assert cells.to_text(pa.array(["x", None, "x"]).dictionary_encode()).to_pylist() == ["x", None, "x"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_zoned_time_is_shown_so_that_it_can_be_read_again(unit: str) -> None:
    """In UTC, which any later reading takes for what it is, whatever its own zone."""
    zoned = pa.array([datetime(2024, 5, 6, 9), None], pa.timestamp(unit)).cast(pa.timestamp(unit, "Europe/Berlin"))
    shown = cells.to_text(zoned)
    assert shown[0].as_py().startswith("2024-05-06 09:00:00")
    assert _times(shown, MOSCOW) == _times(zoned, MOSCOW) == ([datetime(2024, 5, 6, 9, tzinfo=UTC), None], ["", ""])


# times


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2024-05-06T12:00:00", 9),
        ("2024-05-06 12:00", 9),
        ("2024-05-06T12", 9),
        (" 2024-05-06 12:00:00.000 ", 9),
        ("2024-05-06T12:00:00Z", 12),
        ("2024-05-06T12:00:00+03:00", 9),
        ("2024-05-06T12:00:00-0530", 17.5),
        ("20240506T120000", 9),
    ],
)
def test_a_time_without_an_offset_is_local(text: str, hour: float) -> None:
    """Moscow is three hours ahead of UTC; an offset or Z says otherwise."""
    assert _times(pa.array([text]), MOSCOW) == ([datetime(2024, 5, 6, tzinfo=UTC) + timedelta(hours=hour)], [""])


def test_a_date_is_its_midnight() -> None:
    """In the zone of the configuration."""
    midnight = datetime(2024, 5, 6, tzinfo=MOSCOW)
    assert _times(pa.array(["2024-05-06"]), MOSCOW)[0] == [midnight]
    assert _times(pa.array([date(2024, 5, 6)]), MOSCOW)[0] == [midnight]


@pytest.mark.parametrize(
    "text", ["now", "06.05.2024", "2024-13-01", "2024-02-30", "12:00", "1701011231234", "0000-01-01"]
)
def test_what_is_no_time_is_a_problem(text: str) -> None:
    """Also an epoch in milliseconds, which would pass for a day in the year 1701."""
    assert _times(pa.array([text])) == ([None], [f"at: no ISO 8601 time '{text}'"])


def test_an_empty_time_is_no_time_and_no_problem() -> None:
    """Empty, blank and null, alone and among others."""
    assert _times(pa.array(["", " ", None])) == ([None] * 3, [""] * 3)
    assert _times(pa.array(["", None, "2024-01-01T00:00Z"]))[1] == [""] * 3
    assert _times(pa.array([None], pa.timestamp("us"))) == ([None], [""])


# Times that the clocks of Berlin showed twice (27 October), skipped (31 March), and their neighbours.
HARD = (
    "2024-10-27T01:59:59",
    "2024-10-27T02:30:00",
    "2024-10-27T03:00:00",
    "2024-03-31T01:59:59",
    "2024-03-31T02:30:00",
)
EASY = (
    "2024-03-31T03:00:00",
    "2024-07-01T00:00:00.123456",
    "1969-12-31",
    "1893-03-31T23:59:59",
    "2024-01-01T12:00:00Z",
)


def test_a_time_that_the_clock_showed_twice_is_the_later_one() -> None:
    """02:30 in the night of 27 October came an hour after the first 02:30, at 01:30 UTC."""
    assert _times(pa.array(["2024-10-27T02:30:00"]), BERLIN)[0] == [datetime(2024, 10, 27, 1, 30, tzinfo=UTC)]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(HARD + EASY), st.datetimes(datetime(1900, 1, 1)).map(datetime.isoformat))),
    st.sampled_from(
        ["Europe/Berlin", "Europe/Moscow", "America/Havana", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"]
    ),
)
def test_a_time_is_what_python_says_whatever_stands_beside_it(texts: list[str], name: str) -> None:
    """The later of two, and over a gap the offset from after it; alike alone, in company, and as a timestamp."""
    zone = ZoneInfo(name)
    edge = datetime(9999, 12, 30)
    texts = [text for text in texts if datetime.fromisoformat(text).replace(tzinfo=None) < edge]
    read = [datetime.fromisoformat(text) for text in texts]
    expected = [one if one.tzinfo else one.replace(tzinfo=zone, fold=1) for one in read]
    expected = [one.astimezone(UTC) for one in expected]
    assert _times(pa.array(texts, pa.string()), zone)[0] == expected
    assert [_times(pa.array([text]), zone)[0][0] for text in texts] == expected
    naive = [(one, when) for one, when in zip(read, expected, strict=True) if one.tzinfo is None]
    assert _times(pa.array([one for one, _ in naive], pa.timestamp("us")), zone)[0] == [when for _, when in naive]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_are_read_in_any_unit(unit: str) -> None:
    """Without a zone they are local, with one they are what they are."""
    when = datetime(2024, 5, 6, 12)
    assert _times(pa.array([when], pa.timestamp(unit)), MOSCOW)[0] == [when.replace(tzinfo=MOSCOW)]
    zoned = pa.array([when], pa.timestamp(unit)).cast(pa.timestamp(unit, "UTC"))
    assert _times(zoned, MOSCOW)[0] == [when.replace(tzinfo=UTC)]


def test_nanoseconds_are_cut_off() -> None:
    """A file with finer times than ours is not damaged."""
    fine = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns", "UTC"))
    assert _times(fine)[0] == [datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([2**31 - 1], pa.date32()),
        pa.array([-(2**31)], pa.date32()),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([-(2**62)], pa.timestamp("us", "UTC")),
        pa.array([1], pa.time32("s")),
    ],
    ids=lambda array: str(array.type),
)
def test_a_time_beyond_the_years_is_a_problem(array: pa.Array) -> None:
    """Years are 1 to 9999, and a time of day is no time of consent."""
    said, why = _times(array)
    assert said == [None]
    assert why[0].startswith("at: no ISO 8601 time")


def test_times_may_be_strings_by_dictionary() -> None:
    """As writers of Parquet like to store few distinct strings."""
    said: list[Any] = ["2024-05-06", None, "2024-05-06"]
    day = datetime(2024, 5, 6, tzinfo=UTC)
    assert _times(pa.array(said).dictionary_encode())[0] == [day, None, day]
