"""CSV files into blocks: cut at record ends, parsed by pyarrow in parallel, with as much in memory as a few blocks."""

import csv
import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sync_job.consent.channels import FIRST_ID, LAST_ID, Ids
from sync_job.errors import ExportError
from sync_job.exports import blocks, cells, records, sources, streams
from sync_job.exports.blocks import Block, Columns
from sync_job.exports.records import Dialect

BLOCK_BYTES = 8 << 20
_LIST_BYTES = 1 << 20  # of a list, of which every column is kept: small pieces need little beside
_LONGEST_RECORD_BYTES = 64 << 20
csv.field_size_limit(_LONGEST_RECORD_BYTES + BLOCK_BYTES)  # 128 KiB otherwise, and a longer field an exception
_TEXT = pa.binary()
_TOKENS = pa.dictionary(pa.int32(), pa.binary())  # few distinct values: looked up, not parsed one by one


@dataclass(frozen=True)
class TextBlock:
    """Columns of a block as text; *rows* returns the *ragged* rows (line and text) and the lines of all others.

    Lines are counted from the block's begin, which is behind line *line* of *file*.
    """

    table: pa.Table
    file: str
    line: int
    ragged: bool
    rows: Callable[[], tuple[list[tuple[int, str]], list[int]]]


@dataclass(frozen=True)
class Header:
    """The column names in a file's first record, and how many bytes and lines they take with what is before them."""

    names: list[str]
    size_bytes: int
    lines: int


def header(source: sources.Source, dialect: Dialect) -> Header:
    """Return the header of the file.

    Raises:
        ExportError: when it cannot be read.
    """
    with streams.opened(source) as stream:
        text = stream.read(1 << 20)
    found = records.locate(text, dialect)
    if not len(found.starts):
        raise ExportError(f"{source.name}: only blank lines. Check whether the export has run to its end.")
    if found.stops[0] >= records.cut(text, dialect) and records.is_open(text, dialect):
        raise ExportError(f"{source.name}:{found.lines[0]}: {_never_closed(len(text))}")
    try:
        first = text[found.starts[0] : found.stops[0]].rstrip(b"\r\n").decode()
    except UnicodeDecodeError as exc:
        raise ExportError(f"{source.name}: the header is not UTF-8: {exc}. Save the export as UTF-8.") from exc
    size = min(int(found.stops[0]) + 1, len(text))
    return Header(_fields(first, dialect), size, records.count_lines(text[:size]))


def _fields(text: str, dialect: Dialect) -> list[str]:
    return next(csv.reader([text], delimiter=dialect.delimiter), [])


def read(
    source: sources.Source,
    head: Header,
    columns: Columns,
    zone: ZoneInfo,
    digest: "hashlib._Hash",
    dialect: Dialect,
    wanted: int | None = None,
) -> Iterator[Block]:
    """Yield the blocks of the file in order; *digest* is fed with all of its bytes.

    The raw rows of the client *wanted* go with them.

    Raises:
        ExportError: when it cannot be read, or a quote is never closed.
    """
    threads = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, "export") as pool:
        waiting: deque[Future[Block]] = deque()
        try:
            for text, size_bytes in _texts(source, head, digest, dialect):
                waiting.append(
                    pool.submit(_block, text, size_bytes, source.name, head.names, columns, zone, dialect, wanted)
                )
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def headless(name: str) -> Header:
    """Return the header of a file that has none: its first record is a row, of one column that is called *name*."""
    return Header([name], 0, 0)


def tables(source: sources.Source, head: Header, names: list[str], dialect: Dialect) -> Iterator[TextBlock]:
    """Yield the named columns of the file as text, block by block, with the line and the text of each row.

    Raises:
        ExportError: when it cannot be read, or a quote is never closed.
    """
    line = head.lines
    for text, _ in _texts(source, head, hashlib.sha256(), dialect, _LIST_BYTES):
        text = _readable(text)
        table, ragged = _parse(text, head.names, dict.fromkeys(names, _TEXT), dialect)
        yield TextBlock(table, source.name, line, bool(ragged), partial(_rows, text, ragged, dialect))
        line += records.count_lines(text)


def _rows(text: bytes, ragged: list[tuple[int, str]], dialect: Dialect) -> tuple[list[tuple[int, str]], list[int]]:
    """Return line and text of each row that has the wrong number of fields, and the line of each other one."""
    found = records.locate(text, dialect)
    bad = [(int(found.lines[number - 1]), row) for number, row in ragged if row.strip()]
    good = _well_formed(found, ragged, [])
    return bad, found.lines[good].tolist()


def _texts(
    source: sources.Source, head: Header, digest: "hashlib._Hash", dialect: Dialect, size_bytes: int | None = None
) -> Iterator[tuple[bytes, int]]:
    """Yield what comes after the header in pieces of whole records, each with how far it brings us in the file."""
    line = head.lines + 1
    rest, told = b"", 0
    with streams.opened(source, digest) as stream:
        _skip(stream, head.size_bytes)
        while piece := stream.read(size_bytes or BLOCK_BYTES):
            text = rest + piece
            length = records.cut(text, dialect)
            if length:
                yield text[:length], stream.position - told
                told = stream.position
                line += records.count_lines(text[:length])
            elif len(text) > _LONGEST_RECORD_BYTES:
                raise ExportError(f"{source.name}:{line}: {_never_closed(len(text))}")
            rest = text[length:]
    if rest:
        if records.is_open(rest, dialect):
            raise ExportError(f"{source.name}:{line}: {_never_closed(len(rest))}")
        yield rest, stream.position - told


def _skip(stream: streams.Text, size_bytes: int) -> None:
    while size_bytes and (found := stream.read(size_bytes)):
        size_bytes -= len(found)


def _never_closed(size_bytes: int) -> str:
    return (
        f"a quote opens in this line or after it and is not closed in the {size_bytes} bytes that follow. "
        "Was the file cut short, or a quote inside a field not doubled?"
    )


def _parse(
    text: bytes, names: list[str], kinds: dict[str, pa.DataType], dialect: Dialect
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Return the columns of *kinds*, and the number (from 1) and text of each row with too few or many fields."""
    ragged: list[tuple[int, str]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append((row.number, row.text))
        return "skip"

    table = pyarrow.csv.read_csv(
        pa.py_buffer(text),
        pyarrow.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
        pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter, newlines_in_values=b'"' in text, invalid_row_handler=skip
        ),
        pyarrow.csv.ConvertOptions(
            check_utf8=False,
            column_types=kinds,
            include_columns=list(kinds),
            null_values=[""],
            strings_can_be_null=False,
        ),
    )
    return table, ragged


def _readable(text: bytes) -> bytes:
    """Return *text* in UTF-8, with U+FFFD for what is not."""
    try:
        pa.scalar(text, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        # Some columns may be in another encoding; pyarrow cannot show a ragged row that is not UTF-8.
        return text.decode("utf-8", "replace").encode()
    return text


def _block(
    text: bytes,
    size_bytes: int,
    file: str,
    names: list[str],
    columns: Columns,
    zone: ZoneInfo,
    dialect: Dialect,
    wanted: int | None,
) -> Block:
    text = _readable(text)
    kinds = dict.fromkeys(columns.all(), _TOKENS)
    for timed in (columns.changed_at, columns.as_of):
        if timed:
            kinds[timed] = _TEXT
    try:
        # pyarrow would take 0x1F for a number; whoever wrote it hardly meant a client's id.
        if b"0x" in text or b"0X" in text:
            raise pa.ArrowInvalid("hexadecimal")
        table, ragged = _parse(text, names, kinds | {columns.client: pa.int64()}, dialect)
    except pa.ArrowInvalid:
        table, ragged = _parse(text, names, kinds | {columns.client: _TEXT}, dialect)
    seen = blocks.read(table, columns, zone)
    lines = records.count_lines(text)
    blank = [number for number, row in ragged if not row.strip()]
    ragged = [(number, row) for number, row in ragged if row.strip()]
    strays = _ids_of(ragged, names, columns, dialect)
    raw = _raw(text, file, seen, ragged, strays, blank, dialect, wanted) if wanted is not None else None
    if not ragged and not seen.problems.bad.any():
        nobody = np.zeros(0, np.int32)
        return blocks.split(
            seen, lines=lines, size_bytes=size_bytes, more=Counter(), ungranted=nobody, rejects=None, raw=raw
        )
    rejects = _rejects(text, file, names, seen, ragged, blank, dialect)
    more = Counter(_misfit(_fields(row, dialect), names) for _, row in ragged)
    return blocks.split(
        seen, lines=lines, size_bytes=size_bytes, more=more, ungranted=strays[strays != 0], rejects=rejects, raw=raw
    )


def _well_formed(found: records.Records, ragged: list[tuple[int, str]], blank: list[int]) -> npt.NDArray[np.intp]:
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
    dialect: Dialect,
    wanted: int,
) -> list[blocks.RawRow]:
    """Return the rows of a block that name the client *wanted* as they stand there, *strays* those of *ragged*."""
    rows = np.flatnonzero(seen.ids == wanted)
    numbers = [number for (number, _), stray in zip(ragged, strays.tolist(), strict=True) if stray == wanted]
    if not len(rows) and not numbers:
        return []
    found = records.locate(text, dialect)
    places = sorted([*_well_formed(found, ragged, blank)[rows].tolist(), *(number - 1 for number in numbers)])
    return [blocks.RawRow(file, int(found.lines[place]), found.raw(place)) for place in places]


def _misfit(fields: list[str], names: list[str]) -> str:
    return f"{len(fields)} fields instead of {len(names)}"


def _rejects(
    text: bytes,
    file: str,
    names: list[str],
    seen: blocks.Read,
    ragged: list[tuple[int, str]],
    blank: list[int],
    dialect: Dialect,
) -> blocks.Rejects:
    """Return the rejected rows of a block with all of their columns, in the order of the file.

    Rows with too few or many fields have their raw text alone.
    """
    found = records.locate(text, dialect)
    parsed, _ = _parse(text, names, dict.fromkeys(names, _TEXT), dialect)
    bad = np.flatnonzero(seen.problems.bad)
    places = np.concatenate([_well_formed(found, ragged, blank)[bad], np.array([n - 1 for n, _ in ragged], np.intp)])
    own = parsed.take(pa.array(bad))
    reasons = [one.take(pa.array(bad)) for one in seen.problems.texts()]
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
        counts = [_misfit(_fields(row, dialect), names) for _, row in ragged]
        reasons.append(pa.array([None] * len(bad) + counts, pa.string()))
    order = np.argsort(places, kind="stable")
    raw = pa.array([found.raw(place) for place in places[order]], pa.string())
    picked = pa.array(order)
    return blocks.reject_table(
        own.take(picked), file, pa.array(found.lines[places[order]]), [one.take(picked) for one in reasons], raw
    )


def _ids_of(ragged: list[tuple[int, str]], names: list[str], columns: Columns, dialect: Dialect) -> Ids:
    """Return the id of each row with too few or many fields, whose client gets no grant; 0 where there is none."""
    place = names.index(columns.client)
    found = [_fields(row, dialect)[place : place + 1] for _, row in ragged]
    texts = pa.array([one[0].strip() if one else "" for one in found], pa.string())
    digits = pc.match_substring_regex(texts, r"^[0-9]{1,18}$")
    numbers = pc.cast(pc.if_else(digits, texts, pa.scalar("0")), pa.int64()).to_numpy()
    ids = np.where((numbers >= FIRST_ID) & (numbers <= LAST_ID), numbers, 0).astype(np.int32)
    return ids if columns.lookup is None else columns.lookup.of(ids)
