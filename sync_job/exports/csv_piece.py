"""Whole records of a CSV file, as what they state; the raw text is looked for where rows are rejected."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sync_job.consent.channels import Ids
from sync_job.exports import blocks, cells, dialect, records
from sync_job.exports.blocks import Block, Columns
from sync_job.exports.csv_header import Header, Seen
from sync_job.exports.records import Dialect

_TEXT = pa.binary()
_MARK = "\ufeff".encode()  # before a header that stands in the middle of a file: two files were put together
LAST_LINE = ("the last line", "no newline at its end, so that it may be cut short")


class Piece(NamedTuple):
    """Whole records of a file: how far they bring us in it, and whether they end it without a newline."""

    text: bytes
    size_bytes: int
    cut_short: bool = False


@dataclass(frozen=True)
class TextBlock:
    """Columns of a block as text; *rows* returns the *ragged* rows (line and text) and the lines of all others.

    Lines are counted from the block's begin, which is behind line *line* of *file*. Where it is *cut_short*, the last
    row of the table ends the file without a newline.
    """

    table: pa.Table
    file: str
    line: int
    ragged: bool
    rows: Callable[[], tuple[list[tuple[int, str]], list[int]]]
    cut_short: bool = False
    misfit: str = "too few or too many fields"  # what is wrong with ragged rows


def _clean(text: bytes, head: Header) -> tuple[bytes, Seen]:
    """Return *text* without its comments, and how many there were."""
    text, comments = records.without_comments(text, head.dialect)
    return text, Seen(comments=comments)


def _without_headers(text: bytes, head: Header) -> tuple[bytes, int]:
    """Return *text* with an empty line in the place of each record that is the header again, and how many there were.

    Files with a header each may have been put together, each with its byte order mark.
    """
    if not head.text or head.text not in text:
        return text, 0
    found = records.locate(text, head.dialect)
    begins, ends = [], []
    for again in re.finditer(re.escape(head.text), text):
        marked = text[: again.start()].endswith(_MARK)
        begin = again.start() - (len(_MARK) if marked else 0)
        place = int(np.searchsorted(found.starts, begin))
        if (
            place < len(found.starts)
            and found.starts[place] == begin
            and not text[again.end() : found.stops[place]].strip(b"\r")
        ):
            begins.append(begin)
            ends.append(again.end())
    return records.without(text, np.array(begins, np.intp), np.array(ends, np.intp)), len(begins)


def _parse(text: bytes, head: Header, kinds: dict[str, pa.DataType]) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Return the columns of *kinds*, and the number (from 1) and text of each row with too few or many fields.

    Of a line with blanks alone, which is no row, the text is blank.
    """
    ragged: list[tuple[int, str]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append((row.number, row.text))
        return "skip"

    kinds = kinds | dict.fromkeys(head.spare, _TEXT)
    table = pyarrow.csv.read_csv(
        pa.py_buffer(text or b"\n"),  # nothing but comments is nothing to pyarrow, and an error
        pyarrow.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=[*head.names, *head.spare]),
        pyarrow.csv.ParseOptions(
            delimiter=head.dialect.delimiter, newlines_in_values=b'"' in text, invalid_row_handler=skip
        ),
        pyarrow.csv.ConvertOptions(
            check_utf8=False,
            column_types=kinds,
            include_columns=list(kinds),
            null_values=[""],
            strings_can_be_null=False,
        ),
    )
    return _without_spare(table, ragged, text, head) if head.more else (table, ragged)


def _without_spare(
    table: pa.Table, ragged: list[tuple[int, str]], text: bytes, head: Header
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Return *table* without the fields beyond the header; rows that hold something there have too many fields."""
    filled = np.zeros(table.num_rows, np.bool_)
    for name in head.spare:
        filled |= pc.not_equal(table.column(name), b"").to_numpy()
    table = table.drop_columns(head.spare)
    if not filled.any():
        return table, ragged
    found = records.locate(text, head.dialect)
    places = _well_formed(found, ragged)[filled].tolist()
    ragged = sorted([*ragged, *((place + 1, found.raw(place)) for place in places)])
    return table.filter(pa.array(~filled)), ragged


def _ends_well_formed(text: bytes, set_apart: Dialect, ragged: list[tuple[int, str]]) -> bool:
    """Return whether the last record of *text* is one with the right number of fields."""
    count = len(records.locate(text, set_apart).starts)
    return count > 0 and all(number < count for number, _ in ragged)


def _readable(text: bytes) -> bytes:
    """Return *text* in UTF-8, with U+FFFD for what is not."""
    if text.isascii():
        return text
    ends = pa.py_buffer(np.array([0, len(text)], np.int32))
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(text)]).validate(full=True)
    except pa.ArrowInvalid:
        # Some columns may be in another encoding; pyarrow cannot show a ragged row that is not UTF-8.
        return text.decode("utf-8", "replace").encode()
    return text


def text(piece: Piece, file: str, head: Header, names: list[str], line: int) -> tuple[TextBlock, int, Seen]:
    """Return the named columns of a piece that begins behind *line*, its lines, and what in it is no row."""
    found, seen = _clean(_readable(piece.text), head)
    found, seen.repeated_headers = _without_headers(found, head)
    table, ragged = _parse(found, head, dict.fromkeys(names, _TEXT))
    cut_short = piece.cut_short and _ends_well_formed(found, head.dialect, ragged)
    rows = partial(_rows, found, ragged, head.dialect)
    return TextBlock(table, file, line, bool(ragged), rows, cut_short), records.count_lines(found), seen


def _rows(text: bytes, ragged: list[tuple[int, str]], set_apart: Dialect) -> tuple[list[tuple[int, str]], list[int]]:
    """Return line and text of each row that has the wrong number of fields, and the line of each other one."""
    found = records.locate(text, set_apart)
    bad = [(int(found.lines[number - 1]), row) for number, row in ragged if row.strip()]
    good = _well_formed(found, ragged)
    return bad, found.lines[good].tolist()


def block(
    piece: Piece, file: str, head: Header, columns: Columns, zone: ZoneInfo, wanted: int | None
) -> tuple[Block, Seen]:
    """Return what a piece of a file states, and the comments and repeated headers in it."""
    text, seen = _clean(_readable(piece.text), head)
    kinds = dict.fromkeys(columns.all(), _TEXT)
    table, ragged = _parse(text, head, kinds)
    read = blocks.read(table, columns, zone)
    if not read.ids.all():  # a header that is repeated has no id: it need not be looked for anywhere else
        text, seen.repeated_headers = _without_headers(text, head)
        if seen.repeated_headers:
            table, ragged = _parse(text, head, kinds)
            read = blocks.read(table, columns, zone)
    if piece.cut_short and _ends_well_formed(text, head.dialect, ragged):
        read.problems.add(np.arange(table.num_rows) == table.num_rows - 1, *LAST_LINE)
    lines = records.count_lines(text)
    blank = [number for number, row in ragged if not row.strip()]
    ragged = [(number, row) for number, row in ragged if row.strip()]
    strays = _ids_of(ragged, head, columns)
    raw = _raw(text, file, read, ragged, strays, blank, head.dialect, wanted) if wanted is not None else None
    if not ragged and not read.problems.bad.any():
        nobody = np.zeros(0, np.int32)
        block = blocks.split(
            read, lines=lines, size_bytes=piece.size_bytes, more=Counter(), ungranted=nobody, rejects=None, raw=raw
        )
        return block, seen
    rejects = _rejects(text, file, head, read, ragged, blank)
    more = Counter(_misfit(row, head) for _, row in ragged)
    ungranted = strays[strays != 0]
    block = blocks.split(
        read, lines=lines, size_bytes=piece.size_bytes, more=more, ungranted=ungranted, rejects=rejects, raw=raw
    )
    return block, seen


def _well_formed(
    found: records.Records, ragged: list[tuple[int, str]], blank: Sequence[int] = ()
) -> npt.NDArray[np.intp]:
    """Return the place of each well-formed row among the records, and so its line and text."""
    there = np.ones(len(found.starts), np.bool_)
    there[np.array([number - 1 for number, _ in ragged] + [number - 1 for number in blank], np.intp)] = False
    return np.flatnonzero(there)


def _raw(
    text: bytes,
    file: str,
    seen: blocks.Read,
    ragged: list[tuple[int, str]],
    strays: Ids,
    blank: list[int],
    set_apart: Dialect,
    wanted: int,
) -> list[blocks.RawRow]:
    """Return the rows of a block that name the client *wanted* as they stand there, *strays* those of *ragged*."""
    rows = np.flatnonzero(seen.ids == wanted)
    numbers = [number for (number, _), stray in zip(ragged, strays.tolist(), strict=True) if stray == wanted]
    if not len(rows) and not numbers:
        return []
    found = records.locate(text, set_apart)
    places = sorted([*_well_formed(found, ragged, blank)[rows].tolist(), *(number - 1 for number in numbers)])
    return [blocks.RawRow(file, int(found.lines[place]), found.raw(place)) for place in places]


def _misfit(row: str, head: Header) -> str:
    return f"{len(dialect.fields(row, head.dialect))} fields instead of {len(head.names)}"


def _rejects(
    text: bytes,
    file: str,
    head: Header,
    read: blocks.Read,
    ragged: list[tuple[int, str]],
    blank: list[int],
) -> blocks.Rejects:
    """Return the rejected rows of a block with all of their columns, in the order of the file.

    Rows with too few or too many fields have their raw text alone.
    """
    names = head.names
    found = records.locate(text, head.dialect)
    bad = np.flatnonzero(read.problems.bad)
    well_formed = _well_formed(found, ragged, blank)[bad]
    places = np.concatenate([well_formed, np.array([n - 1 for n, _ in ragged], np.intp)])
    rows = found.rows(places)
    few = b"".join(row + b"\n" for row in rows[: len(bad)])
    own, _ = _parse(few, head, dict.fromkeys(names, _TEXT))
    reasons = read.problems.texts(pa.array(bad))
    if ragged:
        # Their own columns stay empty, for nobody knows which field is whose: fed in again without a repair, such a
        # row is rejected again.
        own = pa.concat_tables(
            [
                pa.table({name: cells.to_text(own.column(name)) for name in names}),
                pa.table({name: pa.nulls(len(ragged), pa.string()) for name in names}),
            ]
        )
        reasons = [pa.concat_arrays([one, pa.nulls(len(ragged), pa.string())]) for one in reasons]
        counts = [_misfit(row, head) for _, row in ragged]
        reasons.append(pa.array([None] * len(bad) + counts, pa.string()))
    order = pa.array(np.argsort(places, kind="stable"))
    lines = pa.array(found.lines[places])
    raw = cells.to_text(pa.array(rows, _TEXT))
    return blocks.reject_table(
        own.take(order), file, lines.take(order), [one.take(order) for one in reasons], raw.take(order)
    )


def _ids_of(ragged: list[tuple[int, str]], head: Header, columns: Columns) -> Ids:
    """Return the id of each row with too few or many fields, whose client gets no grant; 0 where there is none."""
    place = head.names.index(columns.client)
    found = [dialect.fields(row, head.dialect)[place : place + 1] for _, row in ragged]
    texts = pa.array([one[0] if one else "" for one in found], pa.string())
    ids = cells.read_ids(texts, columns.client, cells.Problems(len(texts)), columns.thousands)
    return ids if columns.lookup is None else columns.lookup.of(ids)
