"""The inbox of a state folder: where lists are put, at any time and without the lock, for its holder to take in.

A list is a Parquet file named by its content; from the moment that `put` returns it is taken in, whatever happens.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sync_job.errors import StateError
from sync_job.ledger import deltas, files

VERSION = 1
_KEY = b"consent-sync"
_ROWS = 1 << 16
SCHEMA = pa.schema(
    [
        ("client", pa.int32()),
        ("given", pa.int32()),  # the CRM's number in the list; 0 if the list has the platform's
        ("channels", pa.uint8()),  # the low bit of each
        ("received_at", pa.float64()),  # epoch seconds
        ("withdrawn_at", pa.float64()),
        ("basis", pa.uint8()),  # its place in `consent.lists.BASES`
        ("request_ref", pa.string()),
    ]
)


def put(folder: Path, table: pa.Table, *, digest: str, source: str, now: float, id_map: str = "") -> Path:
    """Make a normalised list durable in the inbox of the state in *folder*, and return its place; idempotent by digest.

    *source* is the name of the file it came from, *now* when it was taken in, in epoch seconds, *id_map* the digest of
    the map by which its ids were read.

    Raises:
        StateError: when there is no inbox.
    """
    inbox = folder / "inbox"
    with files.storing(inbox):
        if not inbox.is_dir():
            raise StateError(
                f"{inbox.absolute()}: no inbox. `consent-sync init` makes the state; is [state] path right?"
            )
    table = table.select(SCHEMA.names).cast(SCHEMA)
    about = {"kind": "opt-out", "version": VERSION, "rows": len(table), "digest": digest, "source": source}
    about |= {"taken_in": now, "id_map": id_map, "content": _content(table.to_batches(_ROWS))}
    about["seal"] = _seal(about)
    sealed = table.replace_schema_metadata({_KEY: json.dumps(about, ensure_ascii=False).encode()})
    path = inbox / f"{digest}.parquet"
    # The same list may be put twice at once, and without a lock: each writes a file of its own, which is whole before
    # it takes the place. Its folder goes also when the disk is full.
    with files.storing(path), tempfile.TemporaryDirectory(prefix=".", dir=inbox) as own:
        written = Path(own) / path.name
        files.replace(written, lambda place: pq.write_table(sealed, place, compression="zstd", row_group_size=_ROWS))
        written.replace(path)
    files.sync_folder(inbox)
    return path


def waiting(folder: Path) -> list[Path]:
    """Return what lies in the inbox, in the order of the names; half-written files begin with a dot."""
    inbox = folder / "inbox"
    return sorted(path for path in inbox.iterdir() if not path.name.startswith(".")) if inbox.is_dir() else []


class Lookout:
    """Tells at any moment whether a list lies in the inbox, for little more than one call of the system.

    The folder is listed only when its time has changed. File times are coarse: one that is not yet as old as *coarse_s*
    may stay the same though another file comes, and so is not relied on.
    """

    def __init__(self, folder: Path, *, coarse_s: float = 0.1, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._inbox = folder, str(folder / "inbox")
        self._coarse_s, self._clock = coarse_s, clock
        self._empty_at = -1  # the folder's time when it was empty for sure

    def is_empty(self) -> bool:
        """Return whether no list lies there now."""
        try:
            changed = os.stat(self._inbox).st_mtime_ns  # noqa: PTH116 - a path object would cost three times as much
        except OSError:
            return True  # where no list can be put
        if changed == self._empty_at:
            return True
        if waiting(self._folder):
            return False
        if self._clock() - changed / 1e9 > self._coarse_s:
            self._empty_at = changed
        return True


def read(path: Path) -> tuple[Iterator[pa.RecordBatch], dict[str, Any]]:
    """Return the rows of a list that `put` wrote, a batch at a time, and what it says of itself.

    Raises:
        StateError: when it is not what was written, or a newer version wrote it; it stays where it is.
    """
    with files.loading(path), pq.ParquetFile(path, pre_buffer=False) as file:
        about = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
        if not isinstance(about, dict) or about.get("kind") != "opt-out":
            raise ValueError("not a list that consent-sync took in")
        if about["version"] != VERSION:
            raise StateError(
                f"{path}: a list that this version of consent-sync does not know. "
                "Take it in with the version that put it there."
            )
        if about["seal"] != _seal(about) or about["rows"] != file.metadata.num_rows:
            raise ValueError("what it says of itself does not match its digest")
        if file.schema_arrow.remove_metadata() != SCHEMA or about["content"] != _content(_batches(file)):
            raise ValueError("its content does not match its digest")
    return _reading(path), about


def remove(path: Path) -> None:
    """Take a list out of the inbox, once the ledger has it."""
    files.remove(path)


_ASIDE = ".unreadable-"
_LEFT_S = 3600.0  # after which nobody is still writing


def set_aside(path: Path) -> None:
    """Take a file that cannot be read out of the way of the others, and keep it."""
    with files.storing(path):
        path.rename(path.with_name(f"{_ASIDE}{path.name}"))
    files.sync_folder(path.parent)


def set_aside_files(folder: Path) -> list[Path]:
    """Return the files that could not be read."""
    return sorted((folder / "inbox").glob(f"{_ASIDE}*"))


def sweep(folder: Path, now: float) -> None:
    """Remove what a `put` that died has left."""
    for path in (folder / "inbox").glob(".*"):
        if not path.name.startswith((_ASIDE, deltas.PREFIX)) and path.stat().st_mtime < now - _LEFT_S:
            files.remove(path)


def _reading(path: Path) -> Iterator[pa.RecordBatch]:
    with files.loading(path), pq.ParquetFile(path, pre_buffer=False) as file:
        yield from _batches(file)


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):
        yield from file.iter_batches(_ROWS, row_groups=[group])


def _content(batches: Iterable[pa.RecordBatch]) -> str:
    """Return the digest of the rows, however they are cut into batches."""
    hashers = {name: hashlib.sha256() for name in SCHEMA.names}
    for batch in batches:
        for name, hasher in hashers.items():
            column = batch.column(name)
            if column.null_count:
                raise ValueError(f"{name} has a null, which nobody wrote")
            if not pa.types.is_string(column.type):
                hasher.update(column.to_numpy(zero_copy_only=False).tobytes())
            elif len(column):
                hasher.update("\0".join([*column.to_pylist(), ""]).encode())
    return hashlib.sha256(b"".join(hasher.digest() for hasher in hashers.values())).hexdigest()


def _seal(about: dict[str, Any]) -> str:
    said = {name: value for name, value in about.items() if name != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
