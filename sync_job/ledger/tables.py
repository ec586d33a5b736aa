"""Snapshot and plan files: columns of ids and bytes in Parquet, with their meaning and digest in the metadata."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sync_job.consent.backfill import Mark
from sync_job.consent.channels import Bytes, Ids, Mask
from sync_job.consent.dates import NEVER, Dates
from sync_job.consent.diff import Held
from sync_job.consent.known import Holdings
from sync_job.consent.rows import Rows, joined
from sync_job.ledger import files

VERSION = 1
_KEY = b"consent-sync"
_ROW_GROUP = 1 << 20

_PLAN = ("Client", "State", "Due", "Sent", "Lane")
_TYPES = {"Client": pa.int32(), "Since": pa.uint16()}  # every other column holds bytes

_Columns = dict[str, npt.NDArray[Any]]


def _digest(columns: _Columns) -> str:
    hasher = hashlib.sha256()
    for name, values in columns.items():
        hasher.update(name.encode())
        hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()


def _seal(about: dict[str, Any]) -> str:
    """Return the digest of what a file says of itself: without it a damaged time or target would go unseen."""
    said = {name: value for name, value in about.items() if name != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _write(path: Path, columns: _Columns, about: dict[str, Any]) -> None:
    meta = about | {"version": VERSION, "rows": len(columns["Client"]), "digest": _digest(columns)}
    meta["seal"] = _seal(json.loads(json.dumps(meta)))  # as a reader will see it
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(meta, ensure_ascii=False).encode()})
    files.replace(path, lambda place: pq.write_table(table, place, compression="zstd", row_group_size=_ROW_GROUP))


def _read(path: Path, kind: str, names: tuple[str, ...]) -> tuple[_Columns, dict[str, Any]]:
    with files.loading(path), pq.ParquetFile(path, pre_buffer=False) as file:
        about = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
        if not isinstance(about, dict) or about.get("kind") != kind:
            raise ValueError(f"not a {kind} of consent-sync")
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']} of the format; this program knows {VERSION}")
        if about["seal"] != _seal(about):
            raise ValueError("what it says of itself does not match its digest")
        rows = file.metadata.num_rows
        types = {name: _TYPES.get(name, pa.uint8()) for name in names}
        # Before anything is reserved: damaged numbers may name more rows than there is memory.
        if about["rows"] != rows or any(file.schema_arrow.field(name).type != types[name] for name in names):
            raise ValueError("its rows and columns are not those that were written")
        columns: _Columns = {name: np.empty(rows, types[name].to_pandas_dtype()) for name in names}
        place = 0
        for batch in file.iter_batches(_ROW_GROUP, columns=list(names)):
            for name in names:
                # A null, which nobody wrote, has no integer to stand for it: to_numpy refuses it.
                columns[name][place : place + batch.num_rows] = batch.column(name).to_numpy()
            place += batch.num_rows
        if place != rows or about["digest"] != _digest(columns):
            raise ValueError("its content does not match its digest")
    pa.default_memory_pool().release_unused()
    return columns, about


class Said(NamedTuple):
    """What an export says of each of its clients, who are in ascending order.

    *says* and *held*, which is what of it is not let through, are uint8 with two bits a channel; *ungranted*: nothing
    of it is granted, whatever it says. *since* is as of when each is stated.
    """

    client: Ids
    says: Bytes
    held: Bytes
    ungranted: Mask
    since: Dates

    def at(self, which: Mask) -> "Said":
        """Return what is said of the chosen clients."""
        parts = self.client[which], self.says[which], self.held[which], self.ungranted[which]
        return Said(*parts, self.since.at(which))


def write_saved_plan(path: Path, rows: Rows, said: Said, about: dict[str, Any]) -> None:
    """Make a plan durable that is applied later: its rows, and behind them what its export says."""
    none = np.zeros(len(said.client), np.uint8)
    everything = joined([rows, Rows(said.client, none, none, none, none)])
    before = np.zeros(len(rows), np.uint8)
    columns = _of_plan(everything) | {
        "Says": np.concatenate([before, said.says]),
        "Held": np.concatenate([before, said.held]),
        "Ungranted": np.concatenate([before, said.ungranted.astype(np.uint8)]),
        "Since": np.concatenate([before, said.since.places]),
    }
    _write(path, columns, about | {"kind": "saved plan", "sent": len(rows), "times": said.since.times[1:].tolist()})


def read_saved_plan(path: Path) -> tuple[Rows, Said, dict[str, Any]]:
    """Return what `write_saved_plan` was given.

    Raises:
        StateDamagedError: when it is not what was written.
    """
    columns, about = _read(path, "saved plan", (*_PLAN, "Says", "Held", "Ungranted", "Since"))
    rows, count = Rows(*(columns[name] for name in _PLAN)), about["sent"]
    said = Said(
        columns["Client"][count:],
        columns["Says"][count:],
        columns["Held"][count:],
        columns["Ungranted"][count:] != 0,
        Dates(columns["Since"][count:], np.array([NEVER, *about["times"]])),
    )
    return rows.at(slice(count)), said, about


def write_snapshot(path: Path, holdings: Holdings) -> str:
    """Make the snapshot durable, and return the digest of its content."""
    columns = _of_snapshot(holdings)
    _write(path, columns, {"kind": "snapshot", "times": holdings.dates.times[1:].tolist()})
    return _digest(columns)


def digest_of(holdings: Holdings) -> str:
    """Return the digest that `write_snapshot` would return."""
    return _digest(_of_snapshot(holdings))


def _of_snapshot(holdings: Holdings) -> _Columns:
    return {
        "Client": holdings.client,
        "State": holdings.state,
        "Due": holdings.due,
        "Since": holdings.dates.places,
    }


def read_snapshot(path: Path, digest: str | None = None) -> Holdings:
    """Return the snapshot in *path*.

    Raises:
        StateDamagedError: when it is not what was written, or not the one with *digest*.
    """
    columns, about = _read(path, "snapshot", ("Client", "State", "Due", "Since"))
    if digest is not None and about["digest"] != digest:
        raise files.damaged(path, "it is another snapshot than the ledger names")
    times = np.array([NEVER, *about["times"]])
    if columns["Since"].max(initial=0) >= len(times):
        raise files.damaged(path, "it names a time that it does not have")
    return Holdings(columns["Client"], columns["State"], columns["Due"], Dates(columns["Since"], times))


def times_of(path: Path) -> list[float]:
    """Return the times in the metadata of a snapshot: those of denials, in epoch seconds."""
    with files.loading(path), pq.ParquetFile(path, pre_buffer=False) as file:
        about = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
        return [float(one) for one in about["times"]]


def write_held(path: Path, held: Held) -> None:
    """Make what a run held durable, so that an approval means just that."""
    _write(path, {"Client": held.client, "Stated": held.stated, "Change": held.change}, {"kind": "held"})


def read_held(path: Path) -> Held:
    """Return what `write_held` wrote.

    Raises:
        StateDamagedError: when it is not what was written.
    """
    columns, _ = _read(path, "held", ("Client", "Stated", "Change"))
    none = np.zeros(len(columns["Client"]), np.uint8)
    never = np.full(len(none), NEVER)
    return Held(columns["Client"], columns["Stated"], columns["Change"], none, never)


def write_mark(path: Path, run: str, what: Mark) -> None:
    """Make what the backfill of a run made due durable."""
    _write(path, {"Client": what.client, "State": what.state, "Made": what.made}, {"kind": "backfill", "run": run})


def read_mark(path: Path, run: str) -> Mark:
    """Return what `write_mark` wrote.

    Raises:
        StateDamagedError: when it is not what was written, or another run's.
    """
    columns, about = _read(path, "backfill", ("Client", "State", "Made"))
    if about["run"] != run:
        raise files.damaged(path, "it is another backfill than the ledger names")
    return Mark(columns["Client"], columns["State"], columns["Made"])


def write_plan(path: Path, rows: Rows, about: dict[str, Any]) -> None:
    """Make a plan durable; *about* is what its reader needs to know beside the rows, as JSON."""
    _write(path, _of_plan(rows), about | {"kind": "plan"})


def _of_plan(rows: Rows) -> _Columns:
    return dict(zip(_PLAN, (rows.client, rows.state, rows.due, rows.sent, rows.lane), strict=True))


def read_plan(path: Path) -> tuple[Rows, dict[str, Any]]:
    """Return the rows of a plan in sending order, and what `write_plan` was told about it.

    Raises:
        StateDamagedError: when it is not what was written.
    """
    columns, about = _read(path, "plan", _PLAN)
    return Rows(*(columns[name] for name in _PLAN)), about
