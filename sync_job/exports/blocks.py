"""One block of an export: what its rows state, and its rejects with the columns they came with."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.config import ColumnSettings, ExportSettings
from sync_job.consent.channels import ALL_BLANK, BLANK, DENIED, FIELDS, LOW_BITS, SHIFTS, Bytes, Ids, denied, spread
from sync_job.consent.id_map import Lookup, Numbering, whose
from sync_job.consent.tables import UNTIMED, Times
from sync_job.exports import cells, where
from sync_job.exports.where import Condition

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
    words: tuple[cells.Words, ...] = (cells.AS_BUILT,) * len(FIELDS)  # what the tokens of each channel say
    lookup: Lookup | None = None  # the platform's ids, where the column has others
    thousands: str = ""  # what sets groups of digits apart in ids
    where: tuple[Condition, ...] = ()  # which rows are this export's
    operator: str = ""  # the column that may hold several brands
    partition: Mapping[str, str] = field(default_factory=dict)  # columns that the file's folders say, for all rows

    def all(self) -> list[str]:
        """Return the columns that are read."""
        own = (self.client, *self.channels, self.changed_at, self.as_of, self.operator)
        names = dict.fromkeys((*own, *(one.column for one in self.where)))
        return [name for name in names if name and name not in self.partition]

    def of(self, table: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
        """Return a column of *table*, or what the file's folders say in its place."""
        if name in self.partition:
            return pa.repeat(pa.scalar(self.partition[name]), table.num_rows)
        return _one(table, name)

    @classmethod
    def within(
        cls,
        settings: ColumnSettings,
        header: list[str],
        as_of: str = "",
        reading: "Reading | None" = None,
        lookup: Lookup | None = None,
        partition: Mapping[str, str] | None = None,
    ) -> "Columns":
        """Return the mapped columns that *header* has, or the *partition* that the file is of.

        *as_of* names a column with times of which the newest counts.
        """
        reading = reading or Reading()
        said = {name: value for name, value in (partition or {}).items() if name not in header}
        names = [*header, *said]
        return cls(
            settings.Client if settings.Client in header else "",
            tuple(name if name in names else "" for name in settings.channels),
            settings.consent_changed_at if settings.consent_changed_at in names else "",
            as_of if as_of in names else "",
            reading.words,
            lookup,
            reading.thousands,
            reading.where,
            where.operator(names, reading.where),
            said,
        )


@dataclass(frozen=True)
class Reading:
    """What cells of an export mean, and which of its rows count, whatever its files call their columns."""

    words: tuple[cells.Words, ...] = (cells.AS_BUILT,) * len(FIELDS)
    thousands: str = ""
    where: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, settings: ExportSettings) -> "Reading":
        """Return what the settings say."""
        return cls(words_of(settings), settings.thousands, where.conditions(settings.where))


def words_of(settings: ExportSettings) -> tuple[cells.Words, ...]:
    """Return what the tokens of each channel's column say, in the order of CHANNELS."""
    return tuple(
        cells.Words.of(more, blank=DENIED if blank == "denied" else BLANK, inverted=name in settings.inverted)
        for name, more, blank in zip(
            FIELDS, settings.values.meanings(settings.inverted), settings.blank.channels, strict=True
        )
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
    others: int = 0  # rows that are not this export's, and in none of the above
    operators: Counter[str] = field(default_factory=Counter)  # rows by brand, where the file tells


@dataclass(frozen=True)
class Read:
    """The rows of a block as they were read, before rejects and rows of others are set apart."""

    ids: Ids
    values: Bytes
    times: Times | None
    tokens: Tokens
    problems: cells.Problems
    newest: int = UNTIMED
    operators: Counter[str] = field(default_factory=Counter)


def read(table: pa.RecordBatch | pa.Table, columns: Columns, zone: ZoneInfo) -> Read:
    """Return what the rows of *table*, which has at least the mapped columns, state."""
    others = np.zeros(table.num_rows, np.bool_)
    for condition in columns.where:
        others |= ~condition.matches(columns.of(table, condition.column))
    problems = cells.Problems(table.num_rows, others if others.any() else None)
    ids = cells.read_ids(_one(table, columns.client), columns.client, problems, columns.thousands)
    if columns.lookup is not None:
        ids = translated(ids, columns.client, columns.lookup, problems)
    if problems.others is not None:
        ids = np.where(others, np.int32(0), ids)
    values = np.zeros(table.num_rows, np.uint8)
    tokens: Tokens = {}
    for shift, name, channel, said in zip(SHIFTS, columns.channels, FIELDS, columns.words, strict=True):
        if name:
            tokens[channel] = Counter()
            values |= cells.read_flags(columns.of(table, name), name, problems, tokens[channel], said) << shift
        else:
            values |= np.uint8(BLANK << shift)
    times = None
    if columns.changed_at:
        times = cells.read_times(columns.of(table, columns.changed_at), columns.changed_at, zone, problems)
    newest = UNTIMED
    if columns.as_of and not others.all():
        aside = cells.Problems(table.num_rows)  # a row without a readable time says nothing of the export's age
        newest = int(cells.read_times(columns.of(table, columns.as_of), columns.as_of, zone, aside)[~others].max())
    operators = Counter[str]()
    if columns.operator:
        operators = where.count(columns.of(table, columns.operator).filter(pa.array(~others)))
    return Read(ids, values, times, tokens, problems, newest, operators)


def translated(ids: Ids, column: str, lookup: Lookup, problems: cells.Problems) -> Ids:
    """Return the platform's id of each of *ids*, 0 where *problems* says that the map lists none."""
    found = whose(ids, Numbering.CRM, lookup)
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
    """Return the block, less rows of others.

    *more* rows, by reason, were rejected before they became cells; *ungranted*: their clients.
    """
    bad = seen.problems.bad
    known = bad & (seen.ids != 0)
    partial = seen.values[known]
    partial = spread(denied(partial)) & partial | spread(LOW_BITS & ~denied(partial))
    times = seen.times
    others = 0
    good = ~bad
    if seen.problems.others is not None:
        others = int(np.count_nonzero(seen.problems.others))
        good &= ~seen.problems.others
    whole = bool(good.all())
    return Block(
        rows=len(seen.ids) - others + more.total(),
        lines=lines,
        size_bytes=size_bytes,
        ids=seen.ids if whole else seen.ids[good],
        values=seen.values if whole else seen.values[good],
        times=times if whole or times is None else times[good],
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
        others=others,
        operators=seen.operators,
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
