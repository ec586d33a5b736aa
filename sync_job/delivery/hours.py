"""When an export may be sent: from when until when, in the zone of the run. Pure."""

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from sync_job.config import clock_time


def closes_at(window: str, until: str, now: float, zone: ZoneInfo) -> float | None:
    """Return when the last answer has to be there: 0 for no end, none when the *window* is not open.

    *window* is "HH:MM-HH:MM", over midnight if it ends before it begins, or "" for always; *until* is a time of day,
    the next one from *now* on, or "" for no end. *now* and what comes back are in epoch seconds. Where the clocks are
    changed, a time that does not exist is the moment of the change, and one that exists twice is the first.
    """
    ends = [_next(clock_time(until), now, zone)] if until else []
    if window:
        begin, end = (clock_time(part) for part in window.split("-"))
        here = datetime.fromtimestamp(now, zone).time()
        if not (begin <= here < end if begin < end else here >= begin or here < end):
            return None
        ends.append(_next(end, now, zone))
    return min(ends, default=0.0)


def _next(at: time, now: float, zone: ZoneInfo) -> float:
    today = datetime.fromtimestamp(now, zone).date()
    days = (datetime.combine(today + timedelta(days=more), at, zone).timestamp() for more in range(3))
    return next(moment for moment in days if moment > now)
