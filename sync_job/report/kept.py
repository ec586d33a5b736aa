"""Which reports of a target are kept: several targets may have theirs in one folder."""

import json
from pathlib import Path


def folders(path: Path, target: str) -> list[Path]:
    """Return the folders of the reports of *target* in *path*, the oldest run first.

    One that does not say whose it is, because its run died before it could, is taken for the target's.
    """
    if not path.is_dir():
        return []
    found = [folder for folder in path.iterdir() if folder.is_dir() and _target(folder) in ("", target)]
    return sorted(found, key=_place)


def _target(folder: Path) -> str:
    """Return whose report it is; "" where it does not say."""
    try:
        said = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(said.get("target", "")) if isinstance(said, dict) else ""


def _place(folder: Path) -> tuple[int, str]:
    """Return a run's number, which has more digits some day, and then its name."""
    number = folder.name.partition("-")[0]
    return (int(number) if number.isdecimal() else 0, folder.name)
