"""When the last backup of a state was made: a note beside the keys, for whoever looks after it.

A backup takes no lock and leaves the state as it is, and what is put back of it knows of no later one: so the note is
not in the ledger.
"""

import json
from pathlib import Path
from typing import NamedTuple

from sync_job.ledger import anchor, files


class BackedUp(NamedTuple):
    """The last backup: when it was made (epoch seconds), and the file that it was written to."""

    at: float
    file: str


def note(keys: Path, target: str, one: BackedUp) -> None:
    """Keep that a backup of the target's state was made."""
    files.make_folder(keys)
    files.replace_json(path(keys, target), one._asdict())


def last(keys: Path, target: str) -> BackedUp | None:
    """Return the last backup that was noted; none where there is no note that can be read."""
    try:
        found = json.loads(path(keys, target).read_text("utf-8"))
        return BackedUp(float(found["at"]), str(found["file"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def path(keys: Path, target: str) -> Path:
    """Return where the note lies."""
    return keys / f"{anchor.tag(target)}.backup.json"
