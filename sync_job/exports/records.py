"""Where the records of CSV text begin and end: for cutting blocks, and for finding the text of a rejected row.

A line that begins, where a record would, with what the dialect marks comments with is no record. A quote opens a field
only at its start, and a newline ends a record only outside quotes (RFC 4180). Quotes are paired by counting; where one
stands in the middle of a field, which breaks the count, they are paired one by one.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.intp]

_QUOTE, _LF, _CR = 0x22, 0x0A, 0x0D


_LARGE_BYTES = 1 << 16  # from where numpy counts faster than Python


@dataclass(frozen=True)
class Dialect:
    """How fields are set apart, and what a line begins with that is a comment; "" for nothing."""

    delimiter: str = ","
    comment: str = ""


def _quotes(text: bytes, dialect: Dialect) -> Offsets:
    """Return the places of the quotes that open and close fields, in turn; an escaped quote closes and opens."""
    if b'"' not in text:
        return np.zeros(0, np.intp)
    bytes_ = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(bytes_ == _QUOTE)
    if dialect.comment and dialect.comment.encode() in text:
        return _quotes_one_by_one(text, dialect)
    opening = quotes[::2]
    before = bytes_[np.maximum(opening - 1, 0)]
    starts = (before == ord(dialect.delimiter)) | (before == _LF) | (before == _CR) | (opening == 0)
    starts[1:] |= quotes[1:-1:2] == opening[1:] - 1  # "" inside a quoted field
    if starts.all():
        return quotes
    return _quotes_one_by_one(text, dialect)


def _quotes_one_by_one(text: bytes, dialect: Dialect) -> Offsets:
    pattern = rb"(?:\A|(?<=[\r\n" + re.escape(dialect.delimiter.encode()) + rb']))"(?:[^"]|"")*+(?P<end>"|\Z)'
    if dialect.comment:  # the quotes of a comment are none, and neither is a comment within quotes
        pattern += rb"|(?:\A|(?<=[\r\n]))" + re.escape(dialect.comment.encode()) + rb"[^\r\n]*"
    fields = (match for match in re.finditer(pattern, text) if match.group("end") is not None)
    pairs = [(match.start(), match.end() - 1 if match.group("end") else -1) for match in fields]
    return np.array([place for pair in pairs for place in pair if place >= 0], np.intp)


def _ends(text: bytes, dialect: Dialect) -> tuple[Offsets, Offsets]:
    """Return the places of the newlines that end records, and of all newlines; CR LF counts as its LF."""
    bytes_ = np.frombuffer(text, np.uint8)
    is_end = bytes_ == _LF
    if b"\r" in text and text.count(b"\r") != text.count(b"\r\n"):
        lone = bytes_ == _CR
        lone[:-1] &= bytes_[1:] != _LF
        is_end |= lone
    newlines = np.flatnonzero(is_end)
    quotes = _quotes(text, dialect)
    return newlines[np.searchsorted(quotes, newlines) % 2 == 0] if len(quotes) else newlines, newlines


def cut(text: bytes, dialect: Dialect) -> int:
    """Return the length of the whole records that *text*, which begins with a record, holds; 0 for none.

    A CR at the very end ends no record yet: its LF may follow, and would count as one more line.
    """
    if text.endswith(b"\r"):
        text = text[:-1]
    if b'"' not in text:
        return max(text.rfind(b"\n"), -1 if b"\n" in text else text.rfind(b"\r")) + 1
    quotes = _quotes(text, dialect)
    # What is behind an open quote ends no record; what is behind the last closed one and a newline does.
    limit = int(quotes[-1]) if len(quotes) % 2 else len(text)
    closed = quotes[: len(quotes) // 2 * 2]
    last = text.rfind(b"\n", int(closed[-1]) + 1 if len(closed) else 0, limit)
    if last >= 0:
        return last + 1
    ends, _ = _ends(text[:limit], dialect)
    return int(ends[-1]) + 1 if len(ends) else 0


def count_lines(text: bytes) -> int:
    """Return how many newlines *text* holds."""
    if len(text) < _LARGE_BYTES:
        lines = text.count(b"\n")
    else:
        lines = int(np.count_nonzero(np.frombuffer(text, np.uint8) == _LF))
    return lines + text.count(b"\r") - text.count(b"\r\n") if b"\r" in text else lines


def is_open(text: bytes, dialect: Dialect) -> bool:
    """Return whether *text*, which begins with a record, ends inside quotes."""
    return len(_quotes(text, dialect)) % 2 == 1


@dataclass(frozen=True)
class Records:
    """The records of a text that are not blank, and no comments: where each begins and ends, and its line, from 1."""

    text: bytes
    starts: Offsets
    stops: Offsets
    lines: Offsets

    def rows(self, places: Offsets) -> list[bytes]:
        """Return the text of some records, without their newlines."""
        spans = zip(self.starts[places].tolist(), self.stops[places].tolist(), strict=True)
        return [self.text[start:stop].rstrip(b"\r\n") for start, stop in spans]

    def raw(self, index: int) -> str:
        """Return the text of one record, without its newline; bytes that are not UTF-8 are shown as U+FFFD."""
        return self.text[self.starts[index] : self.stops[index]].rstrip(b"\r\n").decode("utf-8", "replace")


def locate(text: bytes, dialect: Dialect) -> Records:
    """Return the records of *text*, which begins with one; a line without anything is no record, nor is a comment."""
    starts, stops, lines, is_comment = _lines(text, dialect)
    if dialect.comment:
        starts, stops, lines = starts[~is_comment], stops[~is_comment], lines[~is_comment]
    return Records(text, starts, stops, lines)


def without_comments(text: bytes, dialect: Dialect) -> tuple[bytes, int]:
    """Return *text* with an empty line in the place of each comment, and how many there were."""
    if not dialect.comment or dialect.comment.encode() not in text:
        return text, 0
    starts, stops, _, is_comment = _lines(text, dialect)
    return without(text, starts[is_comment], stops[is_comment]), int(np.count_nonzero(is_comment))


def without(text: bytes, starts: Offsets, stops: Offsets) -> bytes:
    """Return *text* less what is between *starts* and *stops*, both ascending."""
    begins, ends = [0, *stops.tolist()], [*starts.tolist(), len(text)]
    return b"".join(text[begin:end] for begin, end in zip(begins, ends, strict=True))


def _lines(text: bytes, dialect: Dialect) -> tuple[Offsets, Offsets, Offsets, npt.NDArray[np.bool_]]:
    """Return begin, end and line (from 1) of each record and comment that is not blank, and which are comments."""
    ends, newlines = _ends(text, dialect)
    # What follows the last newline is a record too, if there is something.
    stops = ends if len(ends) and ends[-1] == len(text) - 1 else np.append(ends, len(text))
    starts = np.empty_like(stops)
    starts[0], starts[1:] = 0, stops[:-1] + 1
    bytes_ = np.frombuffer(text, np.uint8)
    length = stops - starts
    if b"\r" in text:  # a CR before the LF belongs to the newline
        length -= (length > 0) & (bytes_[np.maximum(stops - 1, 0)] == _CR)
    lines = np.arange(1, len(starts) + 1) if ends is newlines else np.searchsorted(newlines, starts) + 1
    if not length.all():
        kept = length > 0
        starts, stops, lines = starts[kept], stops[kept], lines[kept]
    mark = dialect.comment.encode()
    is_comment = np.full(len(starts), bool(mark))
    if mark:
        is_comment &= stops - starts >= len(mark)
    for place, byte in enumerate(mark):
        is_comment &= bytes_[np.minimum(starts + place, len(text) - 1)] == byte
    return starts, stops, lines, is_comment
