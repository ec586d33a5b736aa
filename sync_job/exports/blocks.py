"""One block of an export: what its rows state, and its rejects with the columns they came with."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.config import ColumnSettings
from sync_job.consent.channels import ALL_BLANK, BLANK, DENIED, FIELDS, LOW_BITS, SHIFTS, Bytes, Ids, denied, spread
from sync_job.consent.renumber import Lookup
from sync_job.consent.tables import UNTIMED, Times
from sync_job.exports import cells

# Beside an export's own columns, what a reject says of itself.
REJECT_COLUMNS = ("reject_file", "reject_line", "reject_reasons", "reject_raw")
Tokens = dict[str, Counter[str]]


@dataclass(frozen=True)
class Columns:
    """Which columns of one file mean what; "" for what it does not have."""

    client: str
    channels: tuple[str, ...]
    changed_at: str
    as_of: str = ""
    blanks: tuple[int, ...] = (BLANK, BLANK, BLANK, BLANK)  # what a blank cell of each channel says
    lookup: Lookup | None = None  # the platform's ids, where the column has others

    def all(self) -> list[str]:
        """Return the columns that are read."""
        return list(dict.fromkeys(name for name in (self.client, *self.channels, self.changed_at, self.as_of) if name))

    @classmethod
    def within(
        cls,
        settings: ColumnSettings,
        header: list[str],
        as_of: str = "",
        blanks: tuple[str, ...] = ("", "", "", ""),
        lookup: Lookup | None = None,
    ) -> "Columns":
        """Return the mapped columns that *header* has; *as_of* names one with times of which the newest counts."""
        return cls(
            settings.Client if settings.Client in header else "",
            tuple(name if name in header else "" for name in settings.channels),
            settings.consent_changed_at if settings.consent_changed_at in header else "",
            as_of if as_of in header else "",
            tuple(DENIED if blank == "denied" else BLANK for blank in blanks),
            lookup,
        )


@dataclass(frozen=True)
class Rejects:
    """Rejected rows: their own columns as strings, and their reasons; the line is relative to the block."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def after(self, line: int) -> "Rejects":
        """Return the same rejects with lines counted from the file's begin, the block beginning after *line*."""
        place = self.table.column_names.index("reject_line")
        lines = pc.add(self.table.column(place), pa.scalar(line, pa.int64()))
        return Rejects(self.table.set_column(place, "reject_line", lines))


class RawRow(NamedTuple):
    """A row as it stands in the file: where, and its text."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Block:
    """What the rows of a block state: good rows, and what still counts of rejected ones (denials, never grants)."""

    rows: int
    lines: int
    size_bytes: int  # of the file, for progress
    ids: Ids
    values: Bytes
    times: Times | None
    partial_ids: Ids
    partial_values: Bytes
    partial_times: Times | None
    tokens: Tokens
    rejects: Rejects | None
    reasons: Counter[str]  # rejects by reason, without what their cells hold
    newest: int  # of the column that says how old the export is, in microseconds; UNTIMED for none
    raw: list[RawRow]  # of the client that was asked for; lines relative to the block


@dataclass(frozen=True)
class Read:
    """The rows of a block as they were read, before rejects are set apart."""

    ids: Ids
    values: Bytes
    times: Times | None
    tokens: Tokens
    problems: cells.Problems
    newest: int = UNTIMED


def read(table: pa.RecordBatch | pa.Table, columns: Columns, zone: ZoneInfo) -> Read:
    """Return what the rows of *table*, which has at least the mapped columns, state."""
    problems = cells.Problems(table.num_rows)
    ids = cells.read_ids(_one(table, columns.client), columns.client, problems)
    if columns.lookup is not None:
        ids = translated(ids, columns.client, columns.lookup, problems)
    values = np.zeros(table.num_rows, np.uint8)
    tokens: Tokens = {}
    for shift, name, channel, blank in zip(SHIFTS, columns.channels, FIELDS, columns.blanks, strict=True):
        if name:
            tokens[channel] = Counter()
            values |= cells.read_flags(_one(table, name), name, problems, tokens[channel], blank) << shift
        else:
            values |= np.uint8(BLANK << shift)
    times = None
    if columns.changed_at:
        times = cells.read_times(_one(table, columns.changed_at), columns.changed_at, zone, problems)
    newest = UNTIMED
    if columns.as_of and table.num_rows:
        aside = cells.Problems(table.num_rows)  # a row without a readable time says nothing of the export's age
        newest = int(cells.read_times(_one(table, columns.as_of), columns.as_of, zone, aside).max())
    return Read(ids, values, times, tokens, problems, newest)


def translated(ids: Ids, column: str, lookup: Lookup, problems: cells.Problems) -> Ids:
    """Return the platform's id of each of *ids*, 0 where *problems* says that the map lists none."""
    found = lookup.of(ids)
    problems.add((found == 0) & (ids != 0), column, "not in id_map")
    return found


def split(
    seen: Read,
    *,
    lines: int,
    size_bytes: int,
    more: Counter[str],
    ungranted: Ids,
    rejects: Rejects | None,
    raw: list[RawRow] | None = None,
) -> Block:
    """Return the block; *more* rows, by reason, were rejected before they became cells; *ungranted*: their clients."""
    bad = seen.problems.bad
    known = bad & (seen.ids != 0)
    partial = seen.values[known]
    partial = spread(denied(partial)) & partial | spread(LOW_BITS & ~denied(partial))
    times = seen.times
    return Block(
        rows=len(seen.ids) + more.total(),
        lines=lines,
        size_bytes=size_bytes,
        ids=seen.ids[~bad] if bad.any() else seen.ids,
        values=seen.values[~bad] if bad.any() else seen.values,
        times=None if times is None else times[~bad] if bad.any() else times,
        partial_ids=np.concatenate([seen.ids[known], ungranted]),
        partial_values=np.concatenate([partial, np.full(len(ungranted), ALL_BLANK, np.uint8)]),
        partial_times=None
        if times is None
        else np.concatenate([times[known], np.full(len(ungranted), UNTIMED, np.int64)]),
        tokens=seen.tokens,
        rejects=rejects,
        reasons=seen.problems.counts + more,
        newest=seen.newest,
        raw=raw or [],
    )


def reject_table(own: pa.Table, file: str, lines: pa.Array, reasons: list[pa.Array], raw: pa.Array | None) -> Rejects:
    """Return the rejects with their *own* columns first; *raw* is the row's text, or none for its cells joined."""
    texts = [cells.to_text(column) for column in own.columns]
    why = pc.binary_join_element_wise(*reasons, "; ", null_handling="skip") if len(reasons) > 1 else reasons[0]
    raw = joined(own) if raw is None else raw
    said = (pa.repeat(pa.scalar(file), own.num_rows), pc.cast(lines, pa.int64()), why, raw)
    columns = dict(zip(own.column_names, texts, strict=True))  # of two that share a name, the last
    return Rejects(pa.table(columns | dict(zip(REJECT_COLUMNS, said, strict=True))))


def joined(rows: pa.Table) -> pa.Array:
    """Return the cells of each row as one text, with commas: what is shown of a row that has no text of its own."""
    texts = [cells.to_text(column) for column in rows.columns]
    return pc.binary_join_element_wise(*texts, ",", null_handling="replace", null_replacement="")


def _one(table: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column
