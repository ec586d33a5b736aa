"""`state backup` and `state restore`: the state of a target as one file, and back."""

import time
from contextlib import suppress
from pathlib import Path

from sync_job.config import Settings
from sync_job.errors import ConfigError, StateError
from sync_job.ledger import accounting, anchor, archive, backed_up, files, inbox, pause
from sync_job.ledger.anchor import Standing
from sync_job.ledger.backed_up import BackedUp
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.runs import whose
from sync_job.runs.watch import Watch


def backup(settings: Settings, path: Path, watch: Watch | None = None) -> Summary:
    """Make a backup of the state in *path*, also while a run is under way, and return what is in it.

    It is a backup of the state as it is, also if the configuration has another address than it.

    Raises:
        ConfigError: when the file is there already, or would lie in the state or beside the keys.
        StateError: when the state is damaged, or the disk does not take it.
    """
    folder, shown = settings.state.path, watch or Watch()
    for kept, why in (
        (folder, "it would be lost with the state"),
        (settings.state.keys, "nothing of it belongs there"),
    ):
        if path.absolute().resolve().is_relative_to(kept.absolute().resolve()):
            raise ConfigError(f"{path}: inside {kept.absolute()}: {why}. Name a file elsewhere.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path}: no such folder to write the backup into. Make it first.")
    target = whose.bound(settings).settings.endpoint.target
    with State.open(folder, target, write=False) as state:
        made = archive.write(state, path.absolute(), target=target, now=time.time(), progress=shown.at)
    with suppress(StateError):  # `doctor` says that no backup is known; the one that was made is as good
        backed_up.note(settings.state.keys, target, BackedUp(made.made, str(path.absolute())))
    return {
        "backup": str(path.absolute()),
        "bytes": path.stat().st_size,
        "target": target,
        "state": made.state,
        "run": made.run,
        "snapshot": made.snapshot,
        "made": made.made,
        "members": len(made.members),
        "keys": str(settings.state.keys.absolute()),
    }


def restore(settings: Settings, path: Path, watch: Watch | None = None) -> Summary:
    """Put the state in the backup *path* into place, in one step, and return what has to be said of it next.

    Raises:
        StateError: when there is state already, or the backup is damaged or another target's; nothing is changed then.
    """
    folder, target = settings.state.path.absolute(), settings.endpoint.target
    with files.storing(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if _is_put_back(folder, target):
                raise StateError(
                    f"{folder}: a backup was put into place here already, and no run has begun since. Go on with "
                    "`consent-sync state restored`; to restore another one, move the folder away first. Nothing was "
                    "changed."
                )
            raise StateError(
                f"{folder}: there is something already; `state restore` never replaces it. Move it away first, and "
                "keep it until the next run has ended well. Nothing was changed."
            )
        if not path.is_file():
            raise ConfigError(f"{path}: no such file.")
    with archive.unpacked(path, folder, target, (watch or Watch()).at) as (parts, manifest):
        with State.open(parts, target, write=True) as state:
            state.ledger.about.note_put_back()
            clients = state.ledger.clients()
            unfinished = [run.run for run in state.ledger.unfinished()]
            standing, lacking, moved = _standing(state, settings)
        found: Summary = {
            "restored": str(folder),
            "target": target,
            "made": manifest.made,
            "run": manifest.run,
            "snapshot": manifest.snapshot,
            "clients": clients,
            "unfinished": unfinished,
            "lists_waiting": len(inbox.waiting(parts)),
            "paused": pause.paused(parts),
            "standing": standing,
            "lacking": lacking,
            "moved": moved,
        }
        with files.storing(folder):
            parts.rename(folder)
        files.sync_folder(folder.parent)
    return found


def _is_put_back(folder: Path, target: str) -> bool:
    """Return whether the state in *folder* is a backup that was put there, as it was put there."""
    with suppress(StateError), State.open(folder, target, write=False) as state:
        return state.ledger.about.restored() == "put back"
    return False


def _standing(state: State, settings: Settings) -> tuple[str, int, str]:
    """Return how the state stands beside its anchor, in one word, how many people it lacks, and where it has moved."""
    keys, target = settings.state.keys, settings.endpoint.target
    try:
        _, standing, missing = accounting.stand(state.ledger, keys, target)
        moved = anchor.moved(keys, target)
    except StateError:
        return "unknown", 0, ""
    words = {
        Standing.SHRUNKEN: "shrunken",
        Standing.FOREIGN: "foreign",
        Standing.MOVED: "moved",
    }
    lacking = missing if standing is Standing.SHRUNKEN else 0
    return words.get(standing, "older"), lacking, moved if standing is Standing.MOVED else ""
