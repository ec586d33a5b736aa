"""When an export may be sent: from when until when, in the zone of the run. Pure."""

from bisect import bisect_left
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from sync_job.config import clock_time


def closes_at(window: str, until: str, now: float, zone: ZoneInfo) -> float | None:
    """Return when the last answer has to be there: 0 for no end, none when the *window* is not open.

    *window* is "HH:MM-HH:MM", over midnight if it ends before it begins, or "" for always; *until* is a time of day,
    the next one from *now* on, or "" for no end. *now* and what comes back are in epoch seconds. Where the clocks are
    changed, a time that does not exist is the moment of the change, and one that exists twice is the first.
    """
    today = datetime.fromtimestamp(now, zone).date()
    days = [today + timedelta(days=more) for more in (-1, 0, 1, 2)]
    ends = []
    if until:
        ends.append(next(end for day in days if (end := _moment(day, clock_time(until), zone)) > now))
    if window:
        opens, ends_at = (clock_time(part) for part in window.split("-"))
        over = timedelta(days=ends_at <= opens)
        spans = [(_moment(day, opens, zone), _moment(day + over, ends_at, zone)) for day in days]
        closes = [last for first, last in spans if first <= now < last]
        if not closes:
            return None
        ends.append(closes[0])
    return min(ends, default=0.0)


def _moment(day: date, at: time, zone: ZoneInfo) -> float:
    """Return when it is *at* that *day*: the first time, or when the clocks were put forward over it."""
    there = datetime.combine(day, at, zone)
    moment = there.timestamp()
    after = there.replace(fold=1).timestamp()
    if after >= moment:
        return moment
    # It does not exist: by the old offset it lies behind the change, by the new one before it.
    seconds = range(int(after), int(moment) + 1)
    old = datetime.fromtimestamp(after, zone).utcoffset()
    return float(
        seconds[bisect_left(seconds, True, key=lambda at: datetime.fromtimestamp(at, zone).utcoffset() != old)]
    )
