"""Gives what the folder of keys has of a target another name, when the target gets one.

What lies under a name belongs to the state whose anchor is there. Codes of another state, or of ids that a state has
no more, are other people's: they are replaced, and only the same state's are added to.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sync_job.errors import StateError
from sync_job.ledger import anchor, backed_up, files, keyed
from sync_job.ledger.anchor import Anchor
from sync_job.ledger.ledger import Ledger, Place
from sync_job.ledger.tombstones import Tombstones
from sync_job.ledger.tombstones import path_of as tombstones_path
from sync_job.ledger.withdrawn import path_of as withdrawn_path


def bind(keys: Path, state: str, old: str, new: str) -> None:
    """Write anchor, tombstones and who withdrew of *old* under the name of *new*, for the state with this id.

    Raises:
        StateError: when the anchor of *new* is another state's.
    """
    there, found = anchor.read(keys, new), anchor.read(keys, old)
    if there is not None and there.state != state:
        raise StateError(
            f"{keys.absolute()}: there is an anchor of another state of {new}. If that one was given up, move its "
            f"anchor away ({anchor.tag(new)}.anchor.json); the codes beside it ({anchor.tag(new)}.*) are replaced "
            "then, because they are of its people. Nothing was changed."
        )
    if there is not None and not there.moved_to:
        _join(keys, old, new)  # Left by a move that died, or put there with an older copy of the keys.
    else:
        files.remove(backed_up.path(keys, new))
        _put(tombstones_path(keys, old), tombstones_path(keys, new))
    _put(withdrawn_path(keys, old), withdrawn_path(keys, new))
    if found is not None:
        anchor.write(keys, new, replace(found, target=new))


def left_under(keys: Path, state: str, names: Sequence[str], target: str) -> str:
    """Return which of the *names* of a state an older copy of the keys has what is its under; "" for today's or none.

    Such a copy is from before a move: it has no anchor of today's name, and no note of the move.
    """
    if anchor.read(keys, target) is None:
        for former in reversed(names):
            found = anchor.read(keys, former) if former != target else None
            if found is not None and found.state == state and not found.moved_to:
                return former
    return ""


def follow(keys: Path, ledger: Ledger, target: str, now: float) -> None:
    """Bring what an older copy of the keys has under a former name of the target under today's."""
    place = ledger.place()
    former = left_under(keys, place["state"], ledger.about.targets(), target)
    found = anchor.read(keys, former) if former else None
    if found is None:
        return
    _join(keys, former, target)
    if not anchor.is_there(withdrawn_path(keys, target)):
        _put(withdrawn_path(keys, former), withdrawn_path(keys, target))
    anchor.write(keys, target, replace(found, target=target))
    note_move(keys, place, former, target, now)
    remove(keys, place["state"], former)


def finish(keys: Path, ledger: Ledger, target: str, now: float) -> None:
    """Let the keys say under each former name where the state has moved, and have nothing else there."""
    place = ledger.place()
    for former in {*ledger.about.targets()} - {target}:
        note_move(keys, place, former, target, now)
        remove(keys, place["state"], former)


def note_move(keys: Path, place: Place, target: str, new: str, now: float) -> None:
    """Let the anchor of a former name say where the state has moved, unless it does or is another state's."""
    found = anchor.read(keys, target)
    if found is None or (found.state == place["state"] and not found.moved_to):
        anchor.write(keys, target, Anchor(target=target, written=now, moved_to=new, moved=now, **place))


def remove(keys: Path, state: str, target: str) -> None:
    """Remove what the keys have under a former name of the target but the note of the move, unless it is another's."""
    found = anchor.read(keys, target)
    if found is not None and found.state == state:
        lists = (*keys.glob(f"{anchor.tag(target)}.{keyed.TOMBSTONES}*"), withdrawn_path(keys, target))
        for path in (*lists, backed_up.path(keys, target)):
            files.remove(path)


def _join(keys: Path, old: str, new: str) -> None:
    Tombstones.open(keys, new).join(Tombstones.open(keys, old))


def _put(source: Path, place: Path) -> None:
    """Let *place* be as *source*; if that is missing, so is *place*."""
    if anchor.is_there(source):
        files.replace(place, lambda temporary: temporary.write_bytes(source.read_bytes()))
    else:
        files.remove(place)
