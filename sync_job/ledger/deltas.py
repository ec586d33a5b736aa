"""Deltas that a run was asked for and that no run has decided by yet: what a delta says, no later one says again.

A note lies in the inbox from before the lock is taken until the ledger has the delta, whatever ends the run between.
Which files were applied is in the ledger. Notes have no time of ours in them, only a number: a clock may be wrong.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from sync_job.consent.clocks import AHEAD_S
from sync_job.ledger import files
from sync_job.ledger.store import Store

PREFIX = ".delta-"  # in the inbox, where whoever comes next looks; the dot says that it is no list

SCHEMA = """
CREATE TABLE delta_files (
    digest TEXT NOT NULL, name TEXT NOT NULL, changed REAL NOT NULL, PRIMARY KEY (digest, name, changed)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class File:
    """One file of a delta: its path, the digest of its content ("" if it cannot be read), and times (epoch seconds).

    *changed* is the file's own time, *made* the one by which deltas are in order.
    """

    name: str
    digest: str
    changed: float
    made: float


@dataclass(frozen=True)
class Asked:
    """A delta that a run was asked for: its files, *where* all of them are, and its *number* in the order of asking.

    *where* is "" if only the files themselves name it. It is *ready* if it was complete and readable.
    """

    files: list[File]
    where: str
    ready: bool
    number: int = 0

    @classmethod
    def of(cls, shown: dict[str, Any]) -> Self:
        """Return what `shown` was of."""
        return cls(**shown | {"files": [File(**file) for file in shown["files"]]})

    def shown(self) -> dict[str, Any]:
        """Return it as it is written."""
        return asdict(self)

    @property
    def key(self) -> str:
        """What tells it from others, also if its files were moved or copied since: their content."""
        content = " ".join(sorted(file.digest or file.name for file in self.files))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def made(self) -> float:
        """When its newest file was made, in epoch seconds."""
        return max((file.made for file in self.files), default=0.0)

    @property
    def newest(self) -> float:
        """The newest time of its files, in epoch seconds: what it says is not from later."""
        return max((max(file.made, file.changed) for file in self.files), default=0.0)

    @property
    def digests(self) -> set[str]:
        """The digests of its files."""
        return {file.digest for file in self.files}

    def is_before(self, other: "Asked", now: float) -> bool:
        """Return whether this one was asked for before the *other*, and is not newer.

        A time from the future is none: then the order of asking alone counts.
        """
        return self.number < other.number and (self.made <= other.made or self.made > now + AHEAD_S)

    def is_among(self, given: Iterable[File], applied: Collection[str] = ()) -> bool:
        """Return whether each of its files is among those *given*, or was *applied* (by digest).

        A file counts by its content. One that was never complete and readable counts by its path as well: what lies
        there by now is what it was to be.
        """
        digests, names = set(applied), set()
        for file in given:
            digests.add(file.digest)
            names.add(file.name)
        digests.discard("")
        return all(file.digest in digests or (not self.ready and file.name in names) for file in self.files)


def ask(folder: Path, asked: Asked) -> Asked:
    """Note that a run is asked for this delta, and return the note; one of the same delta keeps its number."""
    inbox = folder / "inbox"
    if not inbox.is_dir():
        return asked
    notes = pending(folder)
    asked = numbered(notes, asked)
    same = [note for note in notes if note.is_among(asked.files)]
    asked = replace(asked, ready=asked.ready or any(note.ready and note.key == asked.key for note in same))
    _write(folder, asked)
    # What was noted of a part of it is in this note. A file that was whole is not given up for one that is not.
    done(folder, [note for note in same if note.key != asked.key and (asked.ready or not note.ready)])
    return asked


def numbered(notes: list[Asked], asked: Asked) -> Asked:
    """Return a delta with its number: that of the first note of it, or the next one."""
    numbers = [note.number for note in notes if note.is_among(asked.files)]
    return replace(asked, number=min(numbers or [1 + max((note.number for note in notes), default=0)]))


def not_ready(folder: Path, asked: Asked) -> None:
    """Note that a delta that was asked for could not be read, or was not complete."""
    if _path(folder, asked).exists():
        _write(folder, replace(asked, ready=False))


def pending(folder: Path) -> list[Asked]:
    """Return the deltas that no run has decided by, in the order in which they were asked for."""
    notes = []
    for path in (folder / "inbox").glob(f"{PREFIX}*.json"):
        with files.loading(path):
            notes.append(Asked.of(json.loads(path.read_text("utf-8"))))
    return sorted(notes, key=lambda note: note.number)


def done(folder: Path, which: Iterable[Asked]) -> None:
    """Note that a run has decided by these, or that they are not needed any more."""
    for asked in which:
        files.remove(_path(folder, asked))


def _path(folder: Path, asked: Asked) -> Path:
    return folder / "inbox" / f"{PREFIX}{asked.key}.json"


def _write(folder: Path, asked: Asked) -> None:
    files.replace_json(_path(folder, asked), asked.shown())


class DeltaFiles(Store):
    """The files of deltas that were applied or given up, by name, time and content."""

    def add(self, which: Iterable[File]) -> None:
        """Note that these files were applied, or given up."""
        with self._writing():
            self._db.executemany(
                "INSERT OR IGNORE INTO delta_files VALUES (?, ?, ?)",
                [(file.digest, file.name, file.changed) for file in which],
            )

    def are_known(self, digests: Collection[str]) -> set[str]:
        """Return which of these digests are of files that were applied."""
        return {digest for digest in digests if self._rows("SELECT 1 FROM delta_files WHERE digest = ?", digest)}

    def has(self, name: str, changed: float) -> bool:
        """Return whether the file of this name and time was applied."""
        return bool(self._rows("SELECT 1 FROM delta_files WHERE name = ? AND changed = ?", name, changed))
