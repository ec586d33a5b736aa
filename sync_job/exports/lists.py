"""Lists that people send: of clients who withdrew, and of evidence that some consented again. Read a column at a time.

A list has any format that exports have, or is ids alone. One bad row never blocks the good ones: it is rejected with
its line and reason.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.config import Settings
from sync_job.consent import lists
from sync_job.consent.channels import Ids
from sync_job.consent.clocks import AHEAD_S
from sync_job.consent.tables import UNTIMED
from sync_job.errors import ConfigError, ExportError
from sync_job.exports import blocks, cells, csv_piece, id_map, naming, pieces
from sync_job.exports.pieces import CRM_ID, PLATFORM_ID, Piece, Progress

_DAY_S = 86400.0
_END_OF_DAY = time(23, 59, 59)
REJECTS_KEPT = 1000  # with their text; a list with more of them is to be mended, not read row by row


@dataclass(frozen=True)
class Reject:
    """A row that was not taken: where it stands, why, and its text."""

    file: str
    line: int
    why: str
    raw: str


@dataclass
class List:
    """The good rows of a list, sorted by client, each once, and what was not taken.

    *digest* is of the content: the same rows, however they were written, have the same. *erased* rows were left out
    because their client was erased since.
    """

    table: pa.Table
    source: str
    rows: int
    rejected: int
    reasons: Counter[str]
    rejects: list[Reject]
    digest: str = ""
    id_map: str = ""  # the digest of the map by which its ids were read
    erased: int = 0

    def __post_init__(self) -> None:
        hasher = hashlib.sha256()
        for name in self.table.column_names:
            column = self.table.column(name)
            for chunk in column.chunks:
                if pa.types.is_string(chunk.type):
                    # The lengths tell where one text ends, so that two lists never look alike.
                    hasher.update(pc.binary_length(chunk).to_numpy())
                    hasher.update("".join(chunk.cast(pa.string()).to_pylist()).encode())
                else:
                    hasher.update(chunk.to_numpy())
        self.digest = hasher.hexdigest()


@dataclass
class _Gathered:
    parts: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)


def read_withdrawals(
    where: str,
    settings: Settings,
    *,
    received_at: float | None = None,
    scope: str = "",
    basis: str = "",
    request_ref: str = "",
    columns: Mapping[str, str] | None = None,
    sheet: str = "",
    contacts: str = "",
    several: bool = True,
    own_map: Path | None = None,
    now: float,
    progress: Progress | None = None,
) -> List:
    """Return a list of withdrawals.

    Its columns: client int32, given int32 (the CRM's number in the row; 0 if the row has the platform's), channels
    uint8 (low bits), received_at and withdrawn_at float64 (epoch seconds), basis uint8 (its place in BASES),
    request_ref string. What a row does not say, *received_at*, *scope*, *basis* and *request_ref* say for it, and then
    the settings. *columns* names columns otherwise than the settings do; *sheet* is that of a workbook. *contacts* is
    a lookup, where the list has addresses or numbers: who has one of them withdrew, and of *several* all did.
    *own_map* is a map (old_id, new_id) for this list alone, whose ids are former ones of the platform.

    Raises:
        ConfigError: when nothing says when, which channels, or why, or what is said means nothing.
        ExportError: when it cannot be read, lacks a column that *columns* names, or has no good row.
    """
    named = _named(columns or {}, dict(settings.withdrawals.columns))
    scope, basis = scope.strip() or settings.withdrawals.scope, basis.strip() or settings.withdrawals.basis
    _check_said("--scope", scope, lists.scope)
    _check_said("--basis", basis, _basis)
    found = _Gathered()
    mapped = id_map.of_list(own_map) if own_map else id_map.of_export(settings.export)
    zone = settings.run.zone
    for piece, there in pieces.read(where, named, columns or {}, settings.export, progress, sheet, contacts):
        _require(naming.shown(where), there, named, received_at=received_at, scope=scope, basis=basis)
        problems = piece.problems
        ids, given = _ids(piece, there, mapped, settings.export.thousands, several=several)
        received = _times(piece, there["received_at"], zone, received_at)
        withdrawn = _times(piece, there["withdrawn_at"], zone, None)
        withdrawn = np.where(np.isnan(withdrawn), received, withdrawn)
        blank = np.isnan(received) & ~problems.bad  # of what cannot be read that is said already
        problems.add(blank, there["received_at"] or "received_at", "no time")
        problems.add(received > now + AHEAD_S, there["received_at"] or "received_at", "in the future")
        problems.add(withdrawn > received + _DAY_S, there["withdrawn_at"] or "withdrawn_at", "after it was received")
        withdrawn = _whole_days(withdrawn, zone)
        channels = _words(piece, there["scope"], scope, lists.scope, "scope")
        place = _words(piece, there["basis"], basis, _basis, "basis")
        refs = piece.column(there["request_ref"])
        refs = pa.repeat("", len(ids)) if refs is None else refs
        refs = pc.if_else(pc.equal(refs, ""), pa.scalar(request_ref), refs)
        table = pa.table(
            {
                "client": ids,
                "given": np.zeros_like(ids) if own_map else given,
                "channels": channels.astype(np.uint8),
                "received_at": np.nan_to_num(received),
                "withdrawn_at": np.nan_to_num(withdrawn),
                "basis": np.maximum(place - 1, 0).astype(np.uint8),
                "request_ref": refs.cast(pa.string()),
            }
        )
        _take(found, piece, table)
    keys = ["client", "channels", "withdrawn_at", "request_ref", "received_at", "basis", "given"]
    taken = _finish(naming.shown(where), found, keys)
    taken.id_map = "" if own_map or mapped is None else mapped.about["sha256"]
    return taken


def read_reconsents(
    where: str,
    settings: Settings,
    *,
    columns: Mapping[str, str] | None = None,
    sheet: str = "",
    contacts: str = "",
    now: float,
) -> List:
    """Return a ledger of evidence, every row of which says all of it.

    *columns*, *sheet* and *contacts* are as for withdrawals, but for an address of several clients, which is rejected.
    Its columns: client int32, channels uint8 (low bits), granted_at float64 (epoch seconds), method and evidence_ref
    strings.

    Raises:
        ExportError: when it cannot be read, lacks a column, or has no good row.
    """
    own = {name: name for name in ("channels", "granted_at", "method", "evidence_ref")}
    named = _named(columns or {}, {"client": "Client", **own})
    found, mapped = _Gathered(), id_map.of_export(settings.export)
    for piece, there in pieces.read(where, named, columns or {}, settings.export, None, sheet, contacts):
        missing = [named[name] for name in own if not there[name]]
        if missing:
            raise ExportError(
                f"{naming.shown(where)}: no column {', '.join(map(repr, missing))}; evidence has them all."
            )
        problems = piece.problems
        ids, _ = _ids(piece, there, mapped, settings.export.thousands, several=False)
        granted = _times(piece, there["granted_at"], settings.run.zone, None)
        problems.add(np.isnan(granted) & ~problems.bad, there["granted_at"], "no time")
        problems.add(granted > now, there["granted_at"], "in the future")
        channels = _words(piece, there["channels"], "", lists.scope, "channels")
        method, evidence = piece.column(there["method"]), piece.column(there["evidence_ref"])
        no_method = pc.is_in(pc.utf8_lower(method), pa.array(["", *lists.METHODS_REFUSED]))
        problems.add(no_method.to_numpy(zero_copy_only=False), there["method"], "no evidence of a consent", method)
        no_evidence = pc.equal(evidence, "").to_numpy(zero_copy_only=False)
        problems.add(no_evidence, there["evidence_ref"], "no evidence is named")
        if piece.block.cut_short:  # a withdrawal that may be cut short denies, and is taken; evidence would grant
            problems.add(np.arange(len(ids)) == len(ids) - 1, *csv_piece.LAST_LINE)
        table = pa.table(
            {
                "client": ids,
                "channels": channels.astype(np.uint8),
                "granted_at": np.nan_to_num(granted),
                "method": method,
                "evidence_ref": evidence,
            }
        )
        _take(found, piece, table)
    return _finish(naming.shown(where), found, ["client", "channels", "granted_at", "method", "evidence_ref"])


def _named(given: Mapping[str, str], own: dict[str, str]) -> dict[str, str]:
    """Return the name of each column, by the settings and what is *given* on the command line."""
    known = {name.lower(): name for name in own}
    for name in given:
        if name.lower() not in known:
            raise ConfigError(f"--map {name}={given[name]}: a list has no {name!r}; it has {', '.join(own)}.")
    return own | {known[name.lower()]: column for name, column in given.items()}


def _check_said(option: str, said: str, meaning: Callable[[str], int]) -> None:
    """Refuse what the command line says for all rows, if it means nothing: it would reject them one by one.

    Raises:
        ConfigError: saying what is wrong with it.
    """
    try:
        if said:
            meaning(said)
    except ValueError as exc:
        raise ConfigError(f"{option} {said}: {exc}. Nothing was taken in.") from exc


def _ids(
    piece: Piece, there: Mapping[str, str], mapped: id_map.ExportMap | None, thousands: str, *, several: bool
) -> tuple[Ids, Ids]:
    """Return the platform's id of each row, and the CRM's by which it was given; 0 if that was the platform's.

    They stand there, or a lookup or the map of the CRM's ids says who is meant. *several* says whether an address may
    mean several clients, all of whom are meant then.
    """
    name = there["client"]
    if piece.ids is None:
        ids = cells.read_ids(piece.column(name), name, piece.problems, thousands)
    else:
        ids = piece.ids
        piece.problems.add(ids == 0, name, "not in the lookup")
        if not several and piece.rows is not None:
            many = np.isin(piece.rows, piece.rows[1:][piece.rows[1:] == piece.rows[:-1]])
            piece.problems.add(many, name, "several clients in the lookup, nobody can tell which is meant")
    if mapped is None:
        return ids, np.zeros_like(ids)
    if name == PLATFORM_ID:
        given = piece.column(there["given"])
        unread = cells.Problems(piece.table.num_rows)  # a row that names no client of the CRM is good all the same
        return ids, np.zeros_like(ids) if given is None else cells.read_ids(given, CRM_ID, unread)
    return blocks.translated(ids, name, mapped.lookup, piece.problems), ids


def _require(
    where: str, there: dict[str, str], named: dict[str, str], *, received_at: float | None, scope: str, basis: str
) -> None:
    """Refuse a list of which nothing says when, which channels, or why.

    Raises:
        ConfigError: naming the option.
    """
    if not there["received_at"] and received_at is None:
        raise ConfigError(
            f"{where}: no column {named['received_at']!r}: say with --received-at when the list was received."
        )
    if not there["scope"] and not scope:
        raise ConfigError(
            f"{where}: no column {named['scope']!r}: say with --scope (all, marketing, or channels) what it covers, "
            "or set [withdrawals] scope."
        )
    if not there["basis"] and not basis:
        raise ConfigError(
            f"{where}: no column {named['basis']!r}: say on what ground with --basis ({', '.join(lists.BASES)}), "
            "or set [withdrawals] basis."
        )


def _times(piece: Piece, name: str, zone: ZoneInfo, default: float | None) -> npt.NDArray[np.float64]:
    """Return the times of a column in epoch seconds, *default* where a cell is blank; NaN for none."""
    column = piece.column(name)
    fallback = np.nan if default is None else default
    if column is None:
        return np.full(piece.table.num_rows, fallback)
    times = cells.read_times(column, name, zone, piece.problems)
    return np.where(times == UNTIMED, fallback, times / 1e6)


def is_whole_day(when: datetime) -> bool:
    """Return whether a local time is how a list's date alone is kept as a withdrawal."""
    return when.time() == _END_OF_DAY


def _whole_days(times: npt.NDArray[np.float64], zone: ZoneInfo) -> npt.NDArray[np.float64]:
    """Return *times* with the last second of the day in the place of its midnight, which is how a date alone reads.

    Somebody consented again that morning and withdrew in the afternoon: what says the day alone must not lose to that.
    """
    whole = np.flatnonzero(np.isfinite(times) & (times % 900 == 0))  # where zones may have a midnight
    found = times.copy()
    moments, place = np.unique(times[whole], return_inverse=True)
    ends = []
    for moment in moments.tolist():
        when = datetime.fromtimestamp(moment, zone)
        last = datetime.combine(when.date(), _END_OF_DAY, zone).timestamp()
        ends.append(last if when.time() == time() else moment)
    found[whole] = np.array(ends, np.float64)[place]
    return found


def _words(piece: Piece, name: str, default: str, meaning: Callable[[str], int], what: str) -> npt.NDArray[np.int64]:
    """Return what each cell of a column means, 0 where it means nothing; distinct words are looked up once."""
    column = piece.column(name)
    if column is None:
        return np.full(piece.table.num_rows, meaning(default), np.int64)
    encoded = column.dictionary_encode()
    meanings = []
    for word in encoded.dictionary.to_pylist():
        try:
            meanings.append(meaning(word or default))
        except ValueError:
            meanings.append(0)
    found: npt.NDArray[np.int64] = np.array([*meanings, 0], np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]
    piece.problems.add(found == 0, name, f"no known {what}", column)
    return found


def _basis(word: str) -> int:
    """Return the place of a ground, from 1."""
    if word.lower() not in lists.BASES:
        raise ValueError(f"{word!r} is no ground; grounds are {', '.join(lists.BASES)}")
    return lists.BASES.index(word.lower()) + 1


def _take(found: _Gathered, piece: Piece, table: pa.Table) -> None:
    """Add the good rows of a block, and what its rejects say."""
    bad = piece.problems.bad
    ragged, lines = piece.block.rows() if piece.block.ragged or bad.any() else ([], [])
    rows = piece.rows
    if rows is not None and lines:
        lines = [lines[row] for row in rows.tolist()]
    found.rows += piece.block.table.num_rows + len(ragged)
    found.rejected += (int(np.count_nonzero(bad)) if rows is None else len(np.unique(rows[bad]))) + len(ragged)
    found.reasons.update(piece.problems.counts)
    room = REJECTS_KEPT - len(found.rejects)
    for line, text in ragged[: max(0, room)]:
        found.rejects.append(Reject(piece.block.file, piece.block.line + line, piece.block.misfit, text))
    found.reasons.update({piece.block.misfit: len(ragged)} if ragged else {})
    room = REJECTS_KEPT - len(found.rejects)
    which = np.flatnonzero(bad)[: max(0, room)]
    if len(which):
        rows = pa.array(which)
        said = (one.to_pylist() for one in piece.problems.texts(rows))
        why = [[text for text in reasons if text] for reasons in zip(*said, strict=True)]
        raws = piece.table.take(rows).to_pylist()
        for place, reasons, raw in zip(which.tolist(), why, raws, strict=True):
            line = piece.block.line + lines[place]
            text = ",".join("" if cell is None else _text(cell) for cell in raw.values())
            found.rejects.append(Reject(piece.block.file, line, "; ".join(reasons), text))
    found.parts.append(table.filter(pa.array(~bad)) if bad.any() else table)


def _text(cell: object) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _finish(where: str, found: _Gathered, keys: list[str]) -> List:
    if not sum(part.num_rows for part in found.parts):
        why = ", ".join(f"{count:,} {reason}" for reason, count in found.reasons.most_common(3)) or "no rows"
        raise ExportError(f"{where}: not one row of the list can be taken ({why}). Nothing was taken in.")
    table = pa.concat_tables(found.parts)
    found.parts.clear()
    order = pc.sort_indices(table, [(key, "ascending") for key in keys])
    same = np.ones(table.num_rows, np.bool_)
    same[0] = False
    columns: dict[str, pa.Array] = {}
    for name in table.column_names:  # one at a time: the whole table is never there twice
        column = table.column(name).combine_chunks()
        table = table.drop_columns(name)
        columns[name] = column = column.take(order)
        same[1:] &= pc.equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy(zero_copy_only=False)
    if same.any():
        kept = pa.array(~same)
        columns = {name: column.filter(kept) for name, column in columns.items()}
    table = pa.table(columns)
    table = pa.Table.from_batches(table.to_batches(1 << 16))  # of a size that is hashed and written piece by piece
    pa.default_memory_pool().release_unused()
    name = where.rstrip("/").rsplit("/", 1)[-1]
    return List(table, name, found.rows, found.rejected, found.reasons, found.rejects)
