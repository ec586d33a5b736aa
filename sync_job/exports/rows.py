"""Rows that are read one by one, of worksheets and JSON lines, as columns of text and as blocks."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from sync_job.consent.channels import Ids
from sync_job.exports import blocks, cells
from sync_job.exports.blocks import Block, Columns

BATCH_ROWS = 1 << 16
NO_ROWS: tuple["Stray", ...] = ()


@dataclass(frozen=True)
class Stray:
    """A line that is no row: where, its text, why, and the client's id as far as it can be made out; "" for none."""

    line: int
    text: str
    why: str
    client: str = ""


@dataclass(frozen=True)
class Batch:
    """Rows one after the other: their columns as text, and their lines in the file.

    *last* is the line that the batch ends with, *size_bytes* how far it brings us in the file; *texts* returns the
    rows as they stand there, by default their cells with commas.
    """

    table: pa.Table
    lines: Sequence[int]
    last: int
    size_bytes: int
    strays: Sequence[Stray] = NO_ROWS
    texts: Callable[[Sequence[int]], list[str]] | None = None

    def text(self, rows: Sequence[int]) -> list[str]:
        """Return the text of some *rows*."""
        if self.texts:
            return self.texts(rows)
        found: list[str] = blocks.joined(self.table.take(pa.array(rows, pa.int64()))).to_pylist()
        return found

    def of_list(self) -> tuple[list[tuple[int, str]], list[int]]:
        """Return line and text of each stray, and the line of each row."""
        return [(one.line, one.text) for one in self.strays], list(self.lines)


@dataclass(frozen=True)
class Rows:
    """What a file holds: the names of its columns, and its rows; *renamed* are names that were matched otherwise.

    *headless* returns the same rows with the header as one of them, of one column; *sheet* is that of a workbook.
    """

    names: list[str]
    batches: Callable[[], Iterator[Batch]]
    headless: Callable[[str], "Rows"] | None = None
    renamed: dict[str, str] = field(default_factory=dict)
    sheet: str = ""

    def about(self) -> dict[str, Any]:
        """Return what a report says of how the file is written."""
        return {"renamed": self.renamed, "sheet": self.sheet}


def table(names: Sequence[str], columns: Sequence[Sequence[str | None]]) -> pa.Table:
    """Return columns of text as a table."""
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], names=list(names))


def read(rows: Rows, file: str, columns: Columns, zone: ZoneInfo, wanted: int | None = None) -> Iterator[Block]:
    """Yield the rows as blocks; the raw rows of the client *wanted* go with them.

    Raises:
        ExportError: when they cannot be read.
    """
    before = 0
    for batch in rows.batches():
        seen = blocks.read(batch.table, columns, zone)
        strays = _ids_of(batch.strays, columns)
        yield blocks.split(
            seen,
            lines=batch.last - before,
            size_bytes=batch.size_bytes,
            more=Counter(one.why for one in batch.strays),
            ungranted=strays[strays != 0],
            rejects=_rejects(batch, file, before, seen),
            raw=_raw(batch, file, before, seen, strays, wanted) if wanted is not None else None,
        )
        before = batch.last


def _ids_of(strays: Sequence[Stray], columns: Columns) -> Ids:
    """Return the client's id in each stray, who gets no grant; 0 where there is none."""
    texts = pa.array([one.client for one in strays], pa.string())
    ids = cells.read_ids(texts, columns.client, cells.Problems(len(texts)), columns.thousands)
    return ids if columns.lookup is None else columns.lookup.of(ids)


def _rejects(batch: Batch, file: str, before: int, seen: blocks.Read) -> blocks.Rejects | None:
    """Return the rejected rows and the strays of a batch, in the order of the file."""
    bad = np.flatnonzero(seen.problems.bad)
    if not len(bad) and not batch.strays:
        return None
    taken = pa.array(bad)
    own = batch.table.take(taken)
    nothing = [pa.nulls(len(batch.strays), pa.string()) for _ in batch.table.column_names]
    own = pa.concat_tables([own, pa.Table.from_arrays(nothing, names=batch.table.column_names)])
    spare = pa.nulls(len(batch.strays), pa.string())
    reasons = [pa.concat_arrays([one, spare]) for one in seen.problems.texts(taken)]
    reasons.append(pa.array([None] * len(bad) + [one.why for one in batch.strays], pa.string()))
    lines = np.array([*(batch.lines[row] for row in bad.tolist()), *(one.line for one in batch.strays)], np.int64)
    texts = pa.array([*batch.text(bad.tolist()), *(one.text for one in batch.strays)], pa.string())
    order = pa.array(np.argsort(lines, kind="stable"))
    return blocks.reject_table(
        own.take(order), file, pa.array(lines - before).take(order), [one.take(order) for one in reasons],
        texts.take(order),
    )  # fmt: skip


def _raw(batch: Batch, file: str, before: int, seen: blocks.Read, strays: Ids, wanted: int) -> list[blocks.RawRow]:
    """Return the rows and strays that name the client *wanted*."""
    rows = np.flatnonzero(seen.ids == wanted).tolist()
    found = [(batch.lines[row], text) for row, text in zip(rows, batch.text(rows), strict=True)]
    found += [(one.line, one.text) for one, id_ in zip(batch.strays, strays.tolist(), strict=True) if id_ == wanted]
    return [blocks.RawRow(file, line - before, text) for line, text in sorted(found)]
