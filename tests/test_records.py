import csv
import io
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sync_job.exports import records
from sync_job.exports.records import Dialect

COMMA = Dialect()

# What CSV text is made of, with all that is hard about it: quotes where they belong and where they do not.
PARTS = (
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r\n",
    b"\r",
    b"a",
    b" ",
    "я".encode(),
    b'"b"',
    b'"c\nd"',
    b'"e\r\n"',
    b',"',
    b'"\n',
)
TEXTS = st.lists(st.sampled_from(PARTS), max_size=24).map(b"".join)


@dataclass(frozen=True)
class _Walked:
    """What the reference sees in a text: the records that are not blank, and how it ends."""

    records: list[tuple[int, bytes]]  # line and text
    ends: set[int]  # lengths after which a record begins
    is_open: bool


def _walk(text: bytes) -> _Walked:
    """Return the records of *text*, read a byte at a time."""
    found: list[tuple[int, bytes]] = []
    ends = set()
    state, line, begin, begin_line, place = "start", 1, 0, 1, 0
    while place < len(text):
        byte, after = text[place : place + 1], text[place + 1 : place + 2]
        newline = byte == b"\n" or (byte == b"\r" and after != b"\n")
        line += newline
        if state == "quoted":
            if byte == b'"' and after == b'"':
                place += 1
            elif byte == b'"':
                state = "field"
        elif newline:
            found.append((begin_line, text[begin : place + 1].rstrip(b"\r\n")))
            state, begin, begin_line = "start", place + 1, line
            ends.add(begin)
        elif byte == b'"' and state == "start":
            state = "quoted"
        elif byte == b",":
            state = "start"
        elif byte != b"\r":
            state = "field"
        place += 1
    found.append((begin_line, text[begin:].rstrip(b"\r\n") if state != "quoted" else text[begin:]))
    return _Walked([one for one in found if one[1]], ends, state == "quoted")


def _located(text: bytes, lines_before: int = 0) -> list[tuple[int, bytes]]:
    found = records.locate(text, COMMA)
    assert [found.text[a:b].rstrip(b"\r\n") for a, b in zip(found.starts, found.stops, strict=True)] == [
        record.rstrip(b"\r\n") for _, record in _walk(text).records
    ]
    return [(int(line) + lines_before, found.raw(i).encode()) for i, line in enumerate(found.lines)]


def _shown(text: bytes) -> list[tuple[int, bytes]]:
    return [(line, record.rstrip(b"\r\n")) for line, record in _walk(text).records]


@settings(deadline=None)
@given(TEXTS)
@example(b'a"b",c\n"d\n",e')
@example(b'"a""\n"')
@example(b'a,""",\n",b\r\rc')
def test_records_are_those_of_a_reader_byte_by_byte(text: bytes) -> None:
    """Text and line of each record, blank lines left out, whatever quotes and newlines there are."""
    assert _located(text) == _shown(text)


@settings(deadline=None)
@given(TEXTS)
def test_a_text_is_open_where_a_reader_byte_by_byte_ends_in_quotes(text: bytes) -> None:
    """A quote in the middle of a field opens nothing."""
    assert records.is_open(text, COMMA) == _walk(text).is_open


@settings(deadline=None)
@given(TEXTS)
@example(b'"a"\r\nb')
@example(b"a\r\nb\r\n")
def test_a_cut_anywhere_changes_no_record_and_no_line(text: bytes) -> None:
    """Whatever was read of the text so far, what is cut off and what is left hold the same records as the whole."""
    whole = _walk(text)
    for read in range(len(text) + 1):
        length = records.cut(text[:read], COMMA)
        assert length == 0 or length in whole.ends
        before = records.count_lines(text[:length])
        assert _located(text[:length]) + _located(text[length:], before) == _shown(text)


@settings(deadline=None)
@given(TEXTS.filter(lambda text: b"\r" not in text))
def test_a_cut_leaves_less_than_a_record(text: bytes) -> None:
    """As much as is whole is cut off, so that memory holds one block and one record."""
    for read in range(len(text) + 1):
        assert records.cut(text[:read], COMMA) == max((end for end in _walk(text).ends if end <= read), default=0)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 9))
def test_blocks_of_any_size_hold_the_same_records(text: bytes, size: int) -> None:
    """Reading in pieces, as files are read, finds what reading at once finds."""
    found: list[tuple[int, bytes]] = []
    rest, lines = b"", 0
    for start in range(0, len(text), size):
        rest += text[start : start + size]
        length = records.cut(rest, COMMA)
        found += _located(rest[:length], lines)
        lines += records.count_lines(rest[:length])
        rest = rest[length:]
    assert found + _located(rest, lines) == _shown(text)


@settings(deadline=None)
@given(TEXTS)
def test_records_are_those_of_the_csv_module(text: bytes) -> None:
    """Each record, read alone, gives the fields that Python's own reader finds in the whole."""
    rows = [row for row in csv.reader(io.StringIO(text.decode(), newline="")) if row]
    found = records.locate(text, COMMA)
    texts = [text[start:stop].decode() for start, stop in zip(found.starts, found.stops, strict=True)]
    assert [next(csv.reader(io.StringIO(one, newline=""))) for one in texts] == rows


@settings(deadline=None)
@given(TEXTS)
def test_lines_are_counted_as_editors_do(text: bytes) -> None:
    """LF, CR LF and CR each end one line, in quotes or not."""
    assert records.count_lines(text) == len(text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")) - 1


def test_a_line_number_counts_the_lines_within_quotes() -> None:
    """The record after a cell of three lines stands three lines further down."""
    found = records.locate(b'1,"a\nb\r\nc"\n\n2,d\n3,"e', COMMA)
    assert found.lines.tolist() == [1, 5, 6]
    assert [found.raw(i) for i in range(3)] == ['1,"a\nb\r\nc"', "2,d", '3,"e']


def test_bytes_that_are_not_utf8_are_shown_as_replacements() -> None:
    """The raw text of a record can always be written down."""
    assert records.locate(b"1,\xe9\n", COMMA).raw(0) == "1,\ufffd"


def test_a_text_without_a_newline_has_no_whole_record() -> None:
    """A record that may go on is left for the next block, and so is a CR whose LF may follow."""
    assert [records.cut(text, COMMA) for text in (b"", b"a", b'"a\n', b"a\r", b'"a"\r', b"a\rb")] == [0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_quote_opens_after_the_delimiter_in_use(delimiter: str) -> None:
    """Other delimiters than the comma set fields apart in the same way."""
    text = f'1{delimiter}"a\nb"{delimiter}2,"3\n4\n'.encode()
    assert records.locate(text, Dialect(delimiter)).lines.tolist() == [1, 3]


def test_long_quoted_text_is_read_in_one_go() -> None:
    """A megabyte in quotes with a stray quote before it takes no recursion and no quadratic time."""
    text = b'a"b,"' + b'x""\n' * 250_000 + b'"\n1,2\n'
    found = records.locate(text, COMMA)
    assert found.lines.tolist() == [1, 250_002]
    assert np.array_equal(found.starts, [0, len(text) - 4])
