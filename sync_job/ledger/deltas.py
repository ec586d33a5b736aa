"""Deltas that a run was asked for and that no run has decided by yet: what a delta says, no later one says again.

A note lies in the inbox from before the lock is taken until the ledger has the delta, whatever ends the run between.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from sync_job.ledger import files

PREFIX = ".delta-"  # in the inbox, where whoever comes next looks; the dot says that it is no list


@dataclass(frozen=True)
class File:
    """One file of a delta: its name, the digest of its content, and its time of change (epoch seconds)."""

    name: str
    digest: str
    changed: float


@dataclass(frozen=True)
class Asked:
    """A delta that a run was asked for, and when (epoch seconds)."""

    files: list[File]
    at: float

    @classmethod
    def of(cls, said: dict[str, Any]) -> Self:
        """Return what `shown` was of."""
        return cls([File(**one) for one in said["files"]], float(said["at"]))

    def shown(self) -> dict[str, Any]:
        """Return it as it is written."""
        return asdict(self)

    @property
    def key(self) -> str:
        """What tells it from others, also if its files were moved or copied since: what they say."""
        said = " ".join(sorted(one.digest for one in self.files))
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def made(self) -> float:
        """When its newest file was changed, in epoch seconds."""
        return max((one.changed for one in self.files), default=0.0)

    def is_before(self, other: "Asked") -> bool:
        """Return whether this one was asked for before the *other*, and is not newer."""
        return self.at <= other.at and self.made <= other.made


def ask(folder: Path, asked: Asked) -> None:
    """Note that a run is asked for this delta; the first note of it stays."""
    path = folder / "inbox" / f"{PREFIX}{asked.key}.json"
    if path.parent.is_dir() and not path.exists():
        files.replace_json(path, asked.shown())


def pending(folder: Path) -> list[Asked]:
    """Return the deltas that no run has decided by, in the order in which they were asked for."""
    found = []
    for path in (folder / "inbox").glob(f"{PREFIX}*.json"):
        with files.loading(path):
            found.append(Asked.of(json.loads(path.read_text("utf-8"))))
    return sorted(found, key=lambda one: one.at)


def done(folder: Path, which: Iterable[Asked]) -> None:
    """Note that a run has decided by these, or that they are not needed any more."""
    for one in which:
        files.remove(folder / "inbox" / f"{PREFIX}{one.key}.json")
