"""Snapshot and plan files: columns of ids and bytes in Parquet, with their meaning and digest in the metadata."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sync_job.consent.diff import Holdings, Rows
from sync_job.ledger import files

VERSION = 1
_KEY = b"consent-sync"
_ROW_GROUP = 1 << 20

_Columns = dict[str, npt.NDArray[Any]]


def _digest(columns: _Columns) -> str:
    hasher = hashlib.sha256()
    for name, values in columns.items():
        hasher.update(name.encode())
        hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()


def _write(path: Path, columns: _Columns, about: dict[str, Any]) -> None:
    meta = about | {"version": VERSION, "rows": len(columns["Client"]), "digest": _digest(columns)}
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(meta, ensure_ascii=False).encode()})
    files.replace(path, lambda place: pq.write_table(table, place, compression="zstd", row_group_size=_ROW_GROUP))


def _read(path: Path, kind: str, names: tuple[str, ...]) -> tuple[_Columns, dict[str, Any]]:
    with files.loading(path), pq.ParquetFile(path, pre_buffer=False) as file:
        about = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
        if about.get("kind") != kind:
            raise ValueError(f"not a {kind} of consent-sync")
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']} of the format; this program knows {VERSION}")
        rows = file.metadata.num_rows
        columns: _Columns = {name: np.empty(rows, np.int32 if name == "Client" else np.uint8) for name in names}
        place = 0
        for batch in file.iter_batches(_ROW_GROUP, columns=list(names)):
            for name in names:
                columns[name][place : place + batch.num_rows] = batch.column(name).to_numpy(zero_copy_only=False)
            place += batch.num_rows
        if about["rows"] != rows or about["digest"] != _digest(columns):
            raise ValueError("its content does not match its digest")
    return columns, about


def write_snapshot(path: Path, holdings: Holdings) -> str:
    """Make the snapshot durable, and return the digest of its content."""
    columns: _Columns = {"Client": holdings.client, "State": holdings.state, "Due": holdings.due}
    _write(path, columns, {"kind": "snapshot"})
    return _digest(columns)


def digest_of(holdings: Holdings) -> str:
    """Return the digest that `write_snapshot` would return."""
    return _digest({"Client": holdings.client, "State": holdings.state, "Due": holdings.due})


def read_snapshot(path: Path, digest: str | None = None) -> Holdings:
    """Return the snapshot in *path*.

    Raises:
        StateDamagedError: when it is not what was written, or not the one with *digest*.
    """
    columns, about = _read(path, "snapshot", ("Client", "State", "Due"))
    if digest is not None and about["digest"] != digest:
        raise files.damaged(path, "it is another snapshot than the ledger names")
    return Holdings(columns["Client"], columns["State"], columns["Due"])


def write_plan(path: Path, rows: Rows, about: dict[str, Any]) -> None:
    """Make a plan durable; *about* is what its reader needs to know beside the rows, as JSON."""
    columns: _Columns = {
        "Client": rows.client,
        "State": rows.state,
        "Due": rows.due,
        "Sent": rows.sent,
        "Lane": rows.lane,
    }
    _write(path, columns, about | {"kind": "plan"})


def read_plan(path: Path) -> tuple[Rows, dict[str, Any]]:
    """Return the rows of a plan in sending order, and what `write_plan` was told about it.

    Raises:
        StateDamagedError: when it is not what was written.
    """
    columns, about = _read(path, "plan", ("Client", "State", "Due", "Sent", "Lane"))
    return Rows(columns["Client"], columns["State"], columns["Due"], columns["Sent"], columns["Lane"]), about
