"""The lists beside the results: rejects as they were read, clients that the export no longer has, disagreeing rows."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from sync_job.consent.channels import ALLOWED, CHANNELS, DENIED, FIELDS, SHIFTS, Bytes, Ids, Mask, flags
from sync_job.consent.diff import Blocked, Held
from sync_job.errors import StorageError

REJECT_KEYS_KEPT = 100_000  # rejects that the next run can know again; more are new every night


def open_private(path: Path) -> None:
    """Make an empty file that this user alone can read.

    Raises:
        StorageError: when the disk does not take it.
    """
    with _storing(path):
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(b"")
        path.chmod(0o600)


def flush(path: Path) -> None:
    """Bring a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror or exc}. Make room there or mend the mode, then run again.") from exc


class RejectsFile:
    """Writes rejects as they come; the file is there only when there are some."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[tuple[str, str]] = []
        self._writer: pa.csv.CSVWriter | None = None
        self._names: list[str] = []

    def write(self, table: pa.Table) -> None:
        """Add rejects; columns that the first file did not have are in the raw text alone."""
        if self._writer is None:
            open_private(self.path)
            self._names = table.column_names
            schema = pa.schema([(name, pa.string()) for name in self._names])
            self._writer = pa.csv.CSVWriter(str(self.path), schema)
        columns = [
            table.column(name).cast(pa.string()) if name in table.column_names else pa.nulls(len(table), pa.string())
            for name in self._names
        ]
        with _storing(self.path):
            self._writer.write(pa.table(columns, names=self._names))
        room = REJECT_KEYS_KEPT - len(self.keys)
        for raw in table.column("reject_raw").slice(0, max(0, room)).to_pylist():
            self.keys.append(("reject", hashlib.sha256((raw or "").encode()).hexdigest()[:16]))

    def close(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            with _storing(self.path):
                self._writer.close()


def write_clients(path: Path, ids: Ids) -> None:
    """Write a CSV file of clients; none for no clients."""
    _write(path, pa.table({"Client": pa.array(ids)}))


def write_flags(path: Path, ids: Ids, values: Bytes) -> None:
    """Write a CSV file of clients and what is stated of them, in the columns that exports have; none for no clients."""
    _write(path, flag_table(ids, values))


def write_channels(path: Path, ids: Ids, channels: Bytes) -> None:
    """Write a CSV file of clients with the names of some channels (low bits) of each; none for no clients."""
    _write(path, pa.table({"Client": pa.array(ids), "channels": _names_of(channels)}))


def _names_of(channels: Bytes) -> pa.Array:
    names = [" ".join(c for c, shift in zip(CHANNELS, SHIFTS, strict=True) if byte >> shift & 1) for byte in range(256)]
    return pa.array(names).take(pa.array(channels.astype(np.int32)))


_CHANGES = pa.array(["", "new grant", "re-grant", "revocation"])


def write_held(path: Path, held: Held, guards: str) -> None:
    """Write what was not let through, a row per client and channel, and why; no file if nothing is held."""
    parts = []
    for place, (channel, shift) in enumerate(zip(CHANNELS, SHIFTS, strict=True)):
        stated, change = (held.stated >> shift) & 3, (held.change >> shift) & 3
        for value, word in ((DENIED, "denied"), (ALLOWED, "allowed")):
            which = stated == value
            count = int(np.count_nonzero(which))
            if count:
                parts.append(
                    pa.table(
                        {
                            "Client": pa.array(held.client[which]),
                            "channel": pa.repeat(channel, count),
                            "stated": pa.repeat(word, count),
                            "change": _CHANGES.take(pa.array(change[which].astype(np.int32))),
                            "held_by": _held_by(held, (held.older >> shift) & 1 == 1, which, guards),
                            "order": pa.array(np.full(count, place, np.int8)),
                        }
                    )
                )
    if parts:
        table = pa.concat_tables(parts).sort_by([("Client", "ascending"), ("order", "ascending")])
        _write(path, table.drop_columns("order"))


def _held_by(held: Held, older: Mask, which: Mask, guards: str) -> pa.Array:
    """Return what holds each chosen row: a newer denial, with its time, or else the guards."""
    times, place = np.unique(held.denied_at[which], return_inverse=True)
    words = [guards, *(f"not newer than the denial of {moment(one)}" for one in times.tolist())]
    return pa.array(words).take(pa.array(np.where(older[which], place + 1, 0)))


def moment(seconds: float) -> str:
    """Return a time as messages and lists show it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds > 0 else "an unknown time"


def write_blocked(path: Path, blocked: Blocked, *, mapped: bool = False) -> None:
    """Write whose *allowed* a withdrawal overruled, in the columns of a ledger of evidence that `reconsent` reads.

    What is evidence is for a person to fill in, for those who really came back; none for nothing blocked. Where ids of
    lists are *mapped*, a column says that these are the platform's.
    """
    count = len(blocked.client)
    empty = pa.repeat("", count)
    _write(
        path,
        pa.table(
            {
                "Client": pa.array(blocked.client),
                "channels": _names_of(blocked.channels),
                "granted_at": empty,
                "method": empty,
                "evidence_ref": empty,
                **({"platform_id": pa.array(blocked.client)} if mapped else {}),
            }
        ),
    )


def _write(path: Path, table: pa.Table) -> None:
    if len(table):
        open_private(path)
        with _storing(path):
            pa.csv.write_csv(table, str(path))


def flag_table(ids: Ids, values: Bytes) -> pa.Table:
    """Return clients and flags as a table: int32 ids, and booleans, null where nothing is stated."""
    found: dict[str, Any] = {"Client": pa.array(ids)}
    for place, field in enumerate(FIELDS):
        meanings = pa.array([flags(byte)[place] for byte in range(256)], pa.bool_())
        found[field] = meanings.take(pa.array(values.astype(np.int32)))
    return pa.table(found)
