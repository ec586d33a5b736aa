"""A nightly run's request to the run that holds the lock of a state folder: end your leg, and let me carry on."""

from pathlib import Path

from sync_job.ledger import files

_NAME = ".handover"  # in the inbox, where whoever holds the lock looks; the dot says that it is no list


def ask(folder: Path) -> None:
    """Ask the holder of the lock to hand over."""
    files.show_json(folder / "inbox" / _NAME, {})


def is_asked(folder: Path) -> bool:
    """Return whether somebody waits for the lock, and for what was begun to be handed over."""
    return (folder / "inbox" / _NAME).exists()


def done(folder: Path) -> None:
    """Say that the lock has changed hands."""
    if is_asked(folder):
        files.remove(folder / "inbox" / _NAME)
