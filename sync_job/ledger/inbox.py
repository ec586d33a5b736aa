"""The inbox of a state folder: where lists are put, at any time, for the lock's holder to take in.

No list is known in this version; one that lies there was put by a newer one, and is neither ignored nor touched.
"""

from pathlib import Path

from sync_job.errors import StateError


def waiting(folder: Path) -> list[Path]:
    """Return what lies in the inbox, in the order of the names; half-written files begin with a dot."""
    inbox = folder / "inbox"
    return sorted(path for path in inbox.iterdir() if not path.name.startswith(".")) if inbox.is_dir() else []


def absorb(folder: Path) -> None:
    """Take what lies in the inbox into the ledger.

    Raises:
        StateError: when there is a list that this version cannot take in.
    """
    for path in waiting(folder):
        raise StateError(
            f"{path}: a list that this version of consent-sync does not know. "
            "Take it in with the version that put it there."
        )
