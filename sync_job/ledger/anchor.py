"""The anchor: how far the state of a target has come, kept beside the keys and so outside any backup of the state.

A state that is older than its anchor is a restored backup: it believes less than the platform holds.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Any

from sync_job.errors import StateDamagedError
from sync_job.ledger import files

VERSION = 1


@dataclass(frozen=True)
class Anchor:
    """How far a state had come: its id, the numbers of its last run and snapshot, how many re-consents it had.

    *withdrawn* is how many people had withdrawn, and *unnamed* of how many of them nobody could tell who they are;
    *edition* and *digest* are those of the file that knows them (`withdrawn`), 0 and "" if there is none. Times are in
    epoch seconds. *moved_to* is the target that the state was bound to at *moved*, "" if it is still this one.
    *tombstones* stays 0 where the writer does not count them.
    """

    target: str
    state: str
    run: int
    snapshot: int
    reconsents: int
    withdrawn: int = 0
    unnamed: int = 0
    edition: int = 0
    digest: str = ""
    written: float = 0.0
    tombstones: int = 0
    moved_to: str = ""
    moved: float = 0.0


class Standing(Enum):
    """How a state stands beside its anchor."""

    GOOD = auto()
    RESTORED = auto()  # an older one of the same state
    SHRUNKEN = auto()  # it lacks people who withdrew
    MOVED = auto()  # the state goes on under the name of another target
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
    reconsents: int,
    missing: int,
    anchored: bool,
) -> Standing:
    """Return how a state stands that lacks so many people who withdrew as are *missing*.

    One that was *anchored* and has no anchor any more may be a restored backup. Fewer re-consents make it an older one
    and no worse: people stay denied.
    """
    if anchor is not None and anchor.state != state:
        return Standing.FOREIGN
    if anchor is not None and anchor.moved_to:
        return Standing.MOVED
    if missing:
        return Standing.SHRUNKEN
    if anchor is None:
        return Standing.RESTORED if anchored else Standing.GOOD
    older = run < anchor.run or snapshot < anchor.snapshot or reconsents < anchor.reconsents
    return Standing.RESTORED if older else Standing.GOOD


def codes_before(anchor: Anchor | None, *, state: str, buried: int) -> int:
    """Return how many codes of erased clients there were, by what a state noted (*buried*) and by its own anchor."""
    return max(buried, anchor.tombstones if anchor is not None and anchor.state == state else 0)


def moved(keys: Path, target: str) -> str:
    """Return where the state of a target has moved since and when, through several moves, in words; "" if it has not.

    Raises:
        StateDamagedError: when an anchor is not what was written.
    """
    first = found = read(keys, target)
    seen = {target}
    while found is not None and found.moved_to and found.moved_to not in seen:
        target = found.moved_to
        seen.add(target)
        found = read(keys, target)
    if first is None or not first.moved_to:
        return ""
    return f"{target}, on {datetime.fromtimestamp(first.moved, UTC):%Y-%m-%d}"


def read(keys: Path, target: str) -> Anchor | None:
    """Return the anchor of a target; none where there is none.

    Raises:
        StateDamagedError: when it is not what was written.
        StateError: when others may enter the folder of keys, or read the anchor.
    """
    path = _path(keys, target)
    if not is_there(keys):
        return None
    files.check_private(keys)
    if not is_there(path):
        return None
    files.check_private(path)
    with files.storing(path):
        text = path.read_bytes()
    try:
        found = json.loads(text)
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']} of the anchor; this program knows {VERSION}")
        if found.pop("seal") != _seal(found):
            raise ValueError("it does not match its digest")
        if found["target"] != target:
            raise ValueError(f"it is the anchor of {found['target']}")
        del found["version"]
        return Anchor(**found)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        why = str(exc) if isinstance(exc, ValueError) else "it is no anchor"
        raise StateDamagedError(
            f"{path.absolute()}: damaged ({why}). Nothing was sent. Restore it from the backup of the keys, an older "
            "one will do; or move it away: then the state is taken for a restored backup, and grants nothing until "
            "`consent-sync state restored`."
        ) from exc


def is_there(path: Path) -> bool:
    """Return whether there is anything at *path*; where this user may not look, that is no answer.

    Raises:
        StorageError: when the system refuses to say.
    """
    with files.storing(path):
        try:
            path.stat()
        except FileNotFoundError:
            return False
    return True


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
