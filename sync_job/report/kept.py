"""Which reports of a target are kept: several targets may have theirs in one folder."""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def folders(path: Path, *targets: str, after: int = 0) -> list[Path]:
    """Return the folders of the reports of these *targets* in *path*, the oldest run first: a target may have moved.

    Those of runs up to number *after* are left out. One that does not say whose it is, because its run died before it
    could, is taken for the target's.
    """
    if not path.is_dir():
        return []
    found = [folder for folder in path.iterdir() if folder.is_dir() and _target(folder) in ("", *targets)]
    found = [folder for folder in found if not 0 < _place(folder)[0] <= after]
    return sorted(found, key=_place)


def older_than(path: Path, targets: Collection[str], before: float, runs: Collection[str]) -> list[Path]:
    """Return the folders of reports of *targets* from *before* that time (epoch seconds).

    By what they say of themselves: the clock of the file system is nobody's. What does not say when it was is kept, and
    so is what is from the future. One without a summary is a target's if it is named as one of its *runs*.
    """
    found = []
    for folder in folders(path, *targets):
        said = _said(folder)
        ended = said.get("ended")
        when = float(ended) if isinstance(ended, int | float) else _named_at(folder.name)
        if when is not None and when < before and (said or folder.name in runs):
            found.append(folder)
    return found


def _named_at(name: str) -> float | None:
    """Return the time in a folder's name; none if there is none."""
    try:
        return datetime.strptime(name.rpartition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _target(folder: Path) -> str:
    """Return whose report it is; "" where it does not say."""
    return str(_said(folder).get("target", ""))


def _said(folder: Path) -> dict[str, Any]:
    """Return a report's summary; nothing where there is none that can be read."""
    try:
        said = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _place(folder: Path) -> tuple[int, str]:
    """Return a run's number, which has more digits some day, and then its name."""
    first = folder.name.partition("-")[0]
    return (int(first) if first.isdecimal() else 0, folder.name)
