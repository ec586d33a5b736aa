"""Pauses a target, so that cron and everybody else stay out while something is done by hand."""

import time

from sync_job.config import Settings
from sync_job.errors import ConfigError
from sync_job.ledger import lock
from sync_job.ledger import pause as pauses
from sync_job.ledger.state import State


def pause(settings: Settings, *, reason: str, by: str) -> str:
    """Let nothing be sent from now on, and return a word about it.

    Raises:
        ConfigError: when nobody says why, or it is paused already: whoever did that waits for something.
    """
    if not reason.strip() or not by.strip():
        raise ConfigError("pause: say why (--reason) and who (--by); whoever finds it paused reads it.")
    folder = settings.state.path
    State.open(folder, settings.endpoint.target, write=False, live=True).close()
    if before := pauses.paused(folder):
        raise ConfigError(f"{folder.absolute()}: paused already by {before['by']}: {before['reason']}. `resume` first.")
    pauses.pause(folder, reason=reason.strip(), by=by.strip(), now=time.time())
    busy = f" {lock.describe(lock.running(folder))}, and goes on to its end." if lock.is_held(folder) else ""
    return f"paused: nothing is sent until `consent-sync resume`.{busy}"


def resume(settings: Settings) -> str:
    """Let runs send again, and return a word about it."""
    found = pauses.resume(settings.state.path)
    return "it was not paused" if found is None else f"resumed; {found['by']} had paused it: {found['reason']}"
