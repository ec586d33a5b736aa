"""A target that is paused: nothing is sent until a person resumes it. A file of its own, for it needs no lock."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sync_job.errors import PausedError
from sync_job.ledger import files


def pause(folder: Path, *, reason: str, by: str, now: float) -> None:
    """Let nothing be sent from now on, durably; a run that is under way goes on. *now* is in epoch seconds."""
    files.replace_json(folder / "paused.json", {"reason": reason, "by": by, "at": now})


def resume(folder: Path) -> dict[str, Any] | None:
    """Let runs send again; return what had paused them, none if nothing had."""
    found = paused(folder)
    if found is not None:
        files.remove(folder / "paused.json")
    return found


def paused(folder: Path) -> dict[str, Any] | None:
    """Return who paused the target (`by`), when (`at`, epoch seconds) and why (`reason`); none if it is not paused.

    A damaged file pauses too; then `at` is 0.
    """
    path = folder / "paused.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        at = float(found["at"])
        datetime.fromtimestamp(at, UTC)  # A time that no calendar has is damage, and must not end as a bug later.
        return {"reason": str(found["reason"]), "by": str(found["by"]), "at": at}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        # Whoever wrote it meant it: in doubt nothing is sent.
        return {"reason": "paused.json cannot be read", "by": "somebody", "at": 0.0}


def refuse_if_paused(folder: Path) -> None:
    """Refuse to send while the target is paused.

    Raises:
        PausedError: saying who paused it, and why.
    """
    found = paused(folder)
    if found is not None:
        since = f" since {datetime.fromtimestamp(found['at'], UTC):%Y-%m-%d %H:%M} UTC" if found["at"] else ""
        raise PausedError(
            f"{folder.absolute()}: paused by {found['by']}{since}: {found['reason']}. Nothing was sent. "
            "`consent-sync resume` ends it."
        )
