"""Whether the time of this machine can be believed: deadlines, ages of exports and approvals are told by it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from sync_job.config import Settings
from sync_job.delivery.probe import Reached
from sync_job.errors import Exit
from sync_job.runs.doctor.check import Area, Check, ago

_AREA = Area("clock", Exit.ATTENTION)
_OFF_S = 60.0
_CURE = "Set the clock, and keep it by NTP (timedatectl set-ntp true)."
_HTTP_S = 1.0  # a Date has whole seconds


def look(settings: Settings, newest: float, now: float) -> Iterator[Check]:
    """Yield how *now* stands to the *newest* time that the state knows of (epoch seconds, 0 for none)."""
    shown = datetime.fromtimestamp(now, settings.run.zone)
    said = f"{shown:%Y-%m-%d %H:%M:%S %z} in {settings.run.timezone}, this machine's zone is {time.tzname[0]}"
    if newest > now + _OFF_S:
        ahead = f"{said}; the state knows of a time {ago(newest - now)} later"
        yield _AREA.warning("system time", ahead, _CURE)
    else:
        yield _AREA.ok("system time", said)


def beside(reached: Reached) -> Iterator[Check]:
    """Yield how the clock stands to the endpoint's, where that told the time."""
    if reached.date is None:
        return
    # Somewhere between the question and the answer the endpoint looked at its clock.
    late, early = reached.asked - (reached.date + _HTTP_S), reached.date - reached.answered
    off = max(late, early, 0.0)
    told = f"{datetime.fromtimestamp(reached.date, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if off > _OFF_S:
        where = "behind" if early > late else "ahead of"
        said = f"{ago(off)} {where} the endpoint's, which says {told}"
        yield _AREA.warning("beside the endpoint", said, f"{_CURE} If this one is right, tell the platform's operator.")
    else:
        yield _AREA.ok("beside the endpoint", f"less than a minute from the endpoint's, which says {told}")
