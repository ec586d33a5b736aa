"""The anchor: how far the state of a target has come, kept beside the keys and so outside any backup of the state.

A state that is older than its anchor is a restored backup: it believes less than the platform holds.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from sync_job.ledger import files

VERSION = 1


@dataclass(frozen=True)
class Anchor:
    """How far a state had come: its id, the numbers of its last run and snapshot, what it had taken in (counts)."""

    target: str
    state: str
    run: int
    snapshot: int
    withdrawals: int
    reconsents: int
    written: float = 0.0


class Standing(Enum):
    """How a state stands beside its anchor."""

    GOOD = auto()
    RESTORED = auto()  # an older one of the same state
    SHRUNKEN = auto()  # it lacks withdrawals or re-consents that there were
    FOREIGN = auto()  # another state's anchor


def tag(target: str) -> str:
    """Return what the files of a target begin with: a keys folder may serve several."""
    return hashlib.sha256(target.encode()).hexdigest()[:12]


def compare(
    anchor: Anchor | None,
    *,
    state: str,
    run: int,
    snapshot: int,
    withdrawals: int,
    reconsents: int,
    anchored: bool,
) -> Standing:
    """Return how a state stands; one that was *anchored* and has no anchor any more may be a restored backup."""
    if anchor is None:
        return Standing.RESTORED if anchored else Standing.GOOD
    if anchor.state != state:
        return Standing.FOREIGN
    if withdrawals < anchor.withdrawals or reconsents < anchor.reconsents:
        return Standing.SHRUNKEN
    return Standing.RESTORED if run < anchor.run or snapshot < anchor.snapshot else Standing.GOOD


def read(keys: Path, target: str) -> Anchor | None:
    """Return the anchor of a target; none where there is none.

    Raises:
        StateDamagedError: when it is not what was written.
        StateError: when others may read it.
    """
    path = _path(keys, target)
    with files.storing(path):
        if not path.exists():
            return None
    files.check_private(keys)
    files.check_private(path)
    try:
        with files.loading(path):
            found = json.loads(path.read_text("utf-8"))
            if found["version"] != VERSION:
                raise ValueError(f"version {found['version']} of the anchor; this program knows {VERSION}")
            if found.pop("seal") != _seal(found) or found["target"] != target:
                raise ValueError("it does not match its digest")
            found.pop("version")
            return Anchor(**found)
    except (TypeError, AttributeError) as exc:
        raise files.damaged(path, "it is no anchor") from exc


def write(keys: Path, target: str, anchor: Anchor) -> None:
    """Make *anchor* durable."""
    files.make_folder(keys)
    files.check_private(keys)
    content: dict[str, Any] = {"version": VERSION, **asdict(anchor)}
    files.replace_json(_path(keys, target), content | {"seal": _seal(content)})


def _path(keys: Path, target: str) -> Path:
    return keys / f"{tag(target)}.anchor.json"


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
