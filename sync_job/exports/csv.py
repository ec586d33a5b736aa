"""CSV files into blocks: cut at record ends, parsed by pyarrow in parallel, with as much in memory as a few blocks."""

import csv
import hashlib
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sync_job.consent.channels import Ids
from sync_job.errors import ExportError
from sync_job.exports import blocks, cells, dialect, encoding, headers, records, sources, streams
from sync_job.exports.blocks import Block, Columns
from sync_job.exports.dialect import Asked
from sync_job.exports.records import Dialect

BLOCK_BYTES = 8 << 20
_LIST_BYTES = 1 << 20  # of a list, of which every column is kept: small pieces need little beside
_LONGEST_RECORD_BYTES = 64 << 20
csv.field_size_limit(_LONGEST_RECORD_BYTES + BLOCK_BYTES)  # 128 KiB otherwise, and a longer field an exception
_TEXT = pa.binary()
_TOKENS = pa.dictionary(pa.int32(), pa.binary())  # few distinct values: looked up, not parsed one by one
_HEAD_BYTES = 1 << 20
_MARK = "\ufeff".encode()  # before a header that stands in the middle of a file: two files were put together
LAST_LINE = ("the last line", "no newline at its end, so that it may be cut short")


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


@dataclass
class Seen:
    """What was found out of a file's text so far; all of it once the last block was read."""

    encoding: str = "auto"  # as long as there were ASCII characters alone
    newlines: str = ""
    comments: int = 0
    repeated_headers: int = 0
    odd_ids: bool = False  # in the last block that was parsed, where they were no plain numbers


@dataclass(frozen=True)
class Header:
    """The column names in a file's first record, and how many bytes and lines they take with what is before them.

    *renamed* are names that were matched without case, blanks, `_` and `-`, each with the one that it has here.
    """

    names: list[str]
    size_bytes: int
    lines: int
    dialect: Dialect = field(default_factory=Dialect)
    renamed: dict[str, str] = field(default_factory=dict)
    text: bytes = b""  # the record itself; b"" where there is none
    more: int = 0  # fields that rows have after those of the header, all of them empty
    final_newline: bool = True
    seen: Seen = field(default_factory=Seen)

    @property
    def spare(self) -> list[str]:
        """Names for the fields beyond those of the header, which no column of a file has."""
        return [f"\0{place}" for place in range(self.more)]

    def about(self) -> dict[str, Any]:
        """Return what a report says of how the file is written."""
        found = self.seen
        return {
            "encoding": encoding.plain_name(encoding.UTF_8 if found.encoding == "auto" else found.encoding),
            "delimiter": self.dialect.delimiter,
            "newline": found.newlines,
            "renamed": self.renamed,
            "comments": found.comments,
            "repeated_headers": found.repeated_headers,
        }


class _Piece(NamedTuple):
    """Whole records of a file: how far they bring us in it, and whether they end it without a newline."""

    text: bytes
    size_bytes: int
    cut_short: bool = False


def header(
    source: sources.Source, asked: Asked = dialect.AUTO, columns: Sequence[str] = (), clients: Sequence[str] = ()
) -> Header:
    """Return the header of the file: how it is written, as far as that is not *asked*, and its names.

    Names that are those of *columns* but for case, blanks, `_` and `-` become these; *clients* are what the client's
    column may be called, by default any of *columns*. Without a header the columns are called by their places, from 1.

    Raises:
        ExportError: when it cannot be read, or nobody can tell how.
    """
    with streams.opened(source, None, asked.encoding) as stream:
        text = b""
        while len(text) < _HEAD_BYTES and (piece := stream.read(_HEAD_BYTES)):
            text += piece
        seen = Seen(stream.encoding)
    found = records.locate(text, Dialect(comment=asked.comment))
    if not len(found.starts):
        raise ExportError(f"{source.name}: only blank lines. Check whether the export has run to its end.")
    mark = dialect.declared(found.raw(0)) if len(found.starts) > 1 else ""
    first = 1 if mark else 0
    if asked.delimiter != "auto":
        mark = asked.delimiter

    def has_client(names: list[str]) -> bool:
        if not asked.header:
            places = [str(place) for place in range(1, len(names) + 1)]
            return any(name in places for name in clients or columns)
        try:
            renamed = headers.matched(source.name, names, columns)
        except ExportError:
            return True  # It is told when the header is read.
        return any(renamed.get(name, name) in (clients or columns) for name in names)

    begin = int(found.starts[first])
    mark = mark or dialect.delimiter(source.name, text[begin:], asked.comment, has_client)
    set_apart = Dialect(mark, asked.comment)
    found = records.locate(text, set_apart)
    if found.stops[first] >= records.cut(text, set_apart) and records.is_open(text, set_apart):
        raise ExportError(f"{source.name}:{found.lines[first]}: {_never_closed(len(text))}")
    seen.newlines = _newlines(found)
    rows = dialect.rows(text[begin:], set_apart)
    if not asked.header:
        lengths = Counter(map(len, rows)).most_common(1)
        names = [str(place) for place in range(1, (lengths[0][0] if lengths else 1) + 1)]
        seen.comments = records.without_comments(text[:begin], set_apart)[1]
        lines = int(found.lines[first]) - 1
        return Header(names, begin, lines, set_apart, final_newline=asked.final_newline, seen=seen)
    record = text[found.starts[first] : found.stops[first]].rstrip(b"\r\n")
    try:
        names = dialect.fields(record.decode(), set_apart)
    except UnicodeDecodeError as exc:
        raise ExportError(
            f"{source.name}: the header is not UTF-8, and nobody can tell what it is: {exc}. Name the encoding in "
            "[export] encoding, or save the export as UTF-8."
        ) from exc
    width = dialect.width(names, rows[1:])
    renamed = headers.matched(source.name, names, columns)
    size = min(int(found.stops[first]) + 1, len(text))
    seen.comments = records.without_comments(text[:size], set_apart)[1]
    return Header(
        [renamed.get(name, name) for name in names[:width]],
        size,
        records.count_lines(text[:size]),
        set_apart,
        renamed,
        record,
        max(0, width - len(names)),
        asked.final_newline,
        seen,
    )


def _newlines(found: records.Records) -> str:
    """Return how the first records end."""
    ends = set()
    for stop in found.stops[:1000].tolist():
        end = found.text[max(0, stop - 1) : stop + 1]
        ends.add(
            "CR LF"
            if end == b"\r\n"
            else {b"\n": "LF", b"\r": "CR"}.get(end[-1:], "")
            if stop < len(found.text)
            else ""
        )
    return ", ".join(sorted(ends - {""}))


def read(
    source: sources.Source,
    head: Header,
    columns: Columns,
    zone: ZoneInfo,
    digest: "hashlib._Hash",
    wanted: int | None = None,
) -> Iterator[Block]:
    """Yield the blocks of the file in order; *digest* is fed with all of its bytes.

    The raw rows of the client *wanted* go with them.

    Raises:
        ExportError: when it cannot be read, or a quote is never closed.
    """
    threads = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, "export") as pool:
        waiting: deque[Future[tuple[Block, Seen]]] = deque()

        def next_block() -> Block:
            block, seen = waiting.popleft().result()
            head.seen.comments += seen.comments
            head.seen.repeated_headers += seen.repeated_headers
            return block

        try:
            for piece in _pieces(source, head, digest):
                waiting.append(pool.submit(_block, piece, source.name, head, columns, zone, wanted))
                if len(waiting) > threads:
                    yield next_block()
            while waiting:
                yield next_block()
        finally:
            for future in waiting:
                future.cancel()


def headless(name: str, head: Header) -> Header:
    """Return the header of a file whose first record is a row, of one column that is called *name*."""
    return Header([name], 0, 0, head.dialect, final_newline=head.final_newline, seen=head.seen)


def tables(source: sources.Source, head: Header, names: list[str]) -> Iterator[TextBlock]:
    """Yield the named columns of the file as text, block by block, with the line and the text of each row.

    Raises:
        ExportError: when it cannot be read, or a quote is never closed.
    """
    line = head.lines
    for piece in _pieces(source, head, hashlib.sha256(), _LIST_BYTES):
        text, seen = _clean(_readable(piece.text), head)
        text, seen.repeated_headers = _without_headers(text, head)
        head.seen.comments += seen.comments
        head.seen.repeated_headers += seen.repeated_headers
        table, ragged = _parse(text, head, dict.fromkeys(names, _TEXT))
        cut_short = piece.cut_short and _ends_well_formed(text, head.dialect, ragged)
        rows = partial(_rows, text, ragged, head.dialect)
        yield TextBlock(table, source.name, line, bool(ragged), rows, cut_short)
        line += records.count_lines(text)


def _rows(text: bytes, ragged: list[tuple[int, str]], set_apart: Dialect) -> tuple[list[tuple[int, str]], list[int]]:
    """Return line and text of each row that has the wrong number of fields, and the line of each other one."""
    found = records.locate(text, set_apart)
    bad = [(int(found.lines[number - 1]), row) for number, row in ragged if row.strip()]
    good = _well_formed(found, ragged)
    return bad, found.lines[good].tolist()


def _pieces(
    source: sources.Source, head: Header, digest: "hashlib._Hash", size_bytes: int | None = None
) -> Iterator[_Piece]:
    """Yield what comes after the header in pieces of whole records."""
    before, done, rest, told = head.size_bytes, head.size_bytes, b"", 0
    with streams.opened(source, digest, head.seen.encoding) as stream:
        while piece := stream.read(size_bytes or BLOCK_BYTES):
            if before:
                piece, before = piece[before:], max(0, before - len(piece))
            text = rest + piece
            length = records.cut(text, head.dialect)
            if length:
                yield _Piece(text[:length], stream.position - told)
                told = stream.position
                done += length
            elif len(text) > _LONGEST_RECORD_BYTES:
                raise _too_long(source, head, done, text)
            rest = text[length:]
        head.seen.encoding = stream.encoding
    if rest:
        if records.is_open(rest, head.dialect):
            raise _too_long(source, head, done, rest)
        cut_short = head.final_newline and not rest.endswith((b"\n", b"\r"))
        yield _Piece(rest, stream.position - told, cut_short)


def _too_long(source: sources.Source, head: Header, done: int, text: bytes) -> ExportError:
    """Return what is to be said of *text*, which is one record after *done* bytes: lines are counted only for that."""
    lines, cut = 1, b""
    with streams.opened(source, None, head.seen.encoding) as stream:
        while done and (piece := stream.read(BLOCK_BYTES)):
            part = cut + piece[:done]
            cut = b"\r" if part.endswith(b"\r") else b""  # its LF may follow
            lines += records.count_lines(part[: len(part) - len(cut)])
            done -= min(done, len(piece))
    lines += len(cut)
    if records.is_open(text, head.dialect):
        return ExportError(f"{source.name}:{lines}: {_never_closed(len(text))}")
    return ExportError(
        f"{source.name}:{lines}: {len(text):,} bytes without a newline, and more follow: this is no table. Check "
        "whether the export was written to its end, and as text."
    )


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


def _never_closed(size_bytes: int) -> str:
    return (
        f"a quote opens in this line or after it and is not closed in the {size_bytes} bytes that follow. "
        "Was the file cut short, or a quote inside a field not doubled?"
    )


def _parse(text: bytes, head: Header, kinds: dict[str, pa.DataType]) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Return the columns of *kinds*, and the number (from 1) and text of each row with too few or many fields.

    Of a line with blanks alone, which is no row, the text is blank.
    """
    ragged: list[tuple[int, str]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append((row.number, row.text))
        return "skip"

    kinds = kinds | dict.fromkeys(head.spare, _TOKENS)
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
        cells_ = pc.cast(table.column(name), pa.binary())
        filled |= pc.not_equal(cells_, b"").fill_null(False).to_numpy()
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


def _block(
    piece: _Piece, file: str, head: Header, columns: Columns, zone: ZoneInfo, wanted: int | None
) -> tuple[Block, Seen]:
    """Return what a piece of a file states, and the comments and repeated headers in it."""
    text, seen = _clean(_readable(piece.text), head)
    kinds = dict.fromkeys(columns.all(), _TOKENS)
    for timed in (columns.changed_at, columns.as_of):
        if timed:
            kinds[timed] = _TEXT
    try:
        # pyarrow would take 0x1F for a number; whoever wrote it hardly meant a client's id.
        if head.seen.odd_ids or (b"x" in text and b"0x" in text) or (b"X" in text and b"0X" in text):
            raise pa.ArrowInvalid("hexadecimal, or as bad as the block before")
        table, ragged = _parse(text, head, kinds | {columns.client: pa.int64()})
    except pa.ArrowInvalid:
        # A header that is repeated is no number either: it need not be looked for anywhere else.
        text, seen.repeated_headers = _without_headers(text, head)
        table, ragged = _parse(text, head, kinds | {columns.client: _TEXT})
        # Numbers are parsed fastest, but twice where one of them is none: then the next block has such ones too.
        ids = pc.ascii_trim_whitespace(pc.cast(table.column(columns.client), pa.string()))
        head.seen.odd_ids = not pc.all(pc.ascii_is_decimal(ids)).as_py()
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
    own = _fields(text, head, found, well_formed)
    places = np.concatenate([well_formed, np.array([n - 1 for n, _ in ragged], np.intp)])
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
    order = np.argsort(places, kind="stable")
    raw = pa.array([found.raw(place) for place in places[order]], pa.string())
    picked = pa.array(order)
    return blocks.reject_table(
        own.take(picked), file, pa.array(found.lines[places[order]]), [one.take(picked) for one in reasons], raw
    )


def _fields(text: bytes, head: Header, found: records.Records, places: npt.NDArray[np.intp]) -> pa.Table:
    """Return all columns of some records, which are well-formed, as text."""
    spans = zip(found.starts[places].tolist(), found.stops[places].tolist(), strict=True)
    few = b"".join(text[start:stop] + b"\n" for start, stop in spans)
    own, _ = _parse(few, head, dict.fromkeys(head.names, _TEXT))
    return own


def _ids_of(ragged: list[tuple[int, str]], head: Header, columns: Columns) -> Ids:
    """Return the id of each row with too few or many fields, whose client gets no grant; 0 where there is none."""
    place = head.names.index(columns.client)
    found = [dialect.fields(row, head.dialect)[place : place + 1] for _, row in ragged]
    texts = pa.array([one[0] if one else "" for one in found], pa.string())
    ids = cells.read_ids(texts, columns.client, cells.Problems(len(texts)), columns.thousands)
    return ids if columns.lookup is None else columns.lookup.of(ids)
