"""CSV files into blocks: cut at record ends, parsed by pyarrow in parallel, with as much in memory as a few blocks."""

import csv
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from zoneinfo import ZoneInfo

from sync_job.errors import ExportError
from sync_job.exports import csv_header, csv_piece, records, sources, streams
from sync_job.exports.blocks import Block, Columns
from sync_job.exports.csv_header import Header, Seen
from sync_job.exports.csv_piece import Piece, TextBlock

BLOCK_BYTES = 8 << 20
_LIST_BYTES = 1 << 20  # of a list, of which every column is kept: small pieces need little beside
_LONGEST_RECORD_BYTES = 64 << 20
csv.field_size_limit(_LONGEST_RECORD_BYTES + BLOCK_BYTES)  # 128 KiB otherwise, and a longer field an exception


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
            head.seen.add(seen)
            return block

        try:
            for piece in _pieces(source, head, digest):
                waiting.append(pool.submit(csv_piece.block, piece, source.name, head, columns, zone, wanted))
                if len(waiting) > threads:
                    yield next_block()
            while waiting:
                yield next_block()
        finally:
            for future in waiting:
                future.cancel()


def tables(source: sources.Source, head: Header, names: list[str]) -> Iterator[TextBlock]:
    """Yield the named columns of the file as text, block by block, with the line and the text of each row.

    Raises:
        ExportError: when it cannot be read, or a quote is never closed.
    """
    line = head.lines
    for piece in _pieces(source, head, hashlib.sha256(), _LIST_BYTES):
        found, lines, seen = csv_piece.text(piece, source.name, head, names, line)
        head.seen.add(seen)
        yield found
        line += lines


def _pieces(
    source: sources.Source, head: Header, digest: "hashlib._Hash", size_bytes: int | None = None
) -> Iterator[Piece]:
    """Yield what comes after the header in pieces of whole records."""
    before, done, rest, told = head.size_bytes, head.size_bytes, b"", 0
    with streams.opened(source, digest, head.seen.encoding) as stream:
        while piece := stream.read(size_bytes or BLOCK_BYTES):
            if before:
                piece, before = piece[before:], max(0, before - len(piece))
            text = rest + piece
            length = records.cut(text, head.dialect)
            if length:
                yield Piece(text[:length], stream.position - told)
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
        yield Piece(rest, stream.position - told, cut_short)


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
        return ExportError(f"{source.name}:{lines}: {csv_header.never_closed(len(text))}")
    return ExportError(
        f"{source.name}:{lines}: {len(text):,} bytes without a newline, and more follow: this is no table. Check "
        "whether the export was written to its end, and as text."
    )
