"""Until when a denial is to be acknowledged: hours after it was received, or a statutory date where one is named."""

from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """A statutory deadline: so many days or months after receipt, by business days of a country, and by which law."""

    days: int
    months: int
    business: bool
    country: str
    law: str


# A deadline ends with its last day; business days are Monday to Friday and no public holidays.
PROFILES = {
    "can-spam": Profile(10, 0, True, "US", "CAN-SPAM Act, 15 U.S.C. 7704(a)(4): 10 business days"),
    "casl": Profile(10, 0, True, "CA", "CASL s. 11(3): without delay, at most 10 business days"),
    "au-spam": Profile(5, 0, True, "AU", "Spam Act 2003, Schedule 2: 5 business days"),
    "gdpr-month": Profile(0, 1, False, "", "GDPR 12(3): one month, for requests in general"),
}


class _Holidays(Protocol):
    def __contains__(self, day: date) -> bool: ...


def limits(started: Times, *, limit_h: float, profile: str, zone: ZoneInfo) -> Times:
    """Return until when what began at *started* is to be acknowledged, all in epoch seconds.

    Without a *profile* that is *limit_h* hours later. With one it is the end of its last day in *zone*: the day of
    receipt does not count.

    Raises:
        ValueError: for an unknown profile, or one that needs the extra `holidays` where it is not installed.
    """
    if not profile:
        return started + 3600 * limit_h
    if profile not in PROFILES:
        raise ValueError(f"{profile!r} is no known deadline; known are {', '.join(PROFILES)}")
    chosen = PROFILES[profile]
    free = _holidays(chosen.country) if chosen.business else None
    # A thousand withdrawals of one day have one deadline: only the days are looked at one by one.
    midnights = _midnights(started, zone)
    days, place = np.unique(midnights, return_inverse=True)
    ends = np.array([_end(datetime.fromtimestamp(day, zone).date(), chosen, free, zone) for day in days.tolist()])
    return np.asarray(ends[place], np.float64) if len(days) else started.copy()


def _midnights(started: Times, zone: ZoneInfo) -> Times:
    """Return the local midnight before each time, in epoch seconds."""
    hours, place = np.unique(np.floor(started / 900), return_inverse=True)  # no zone's day begins within a quarter
    found = []
    for quarter in hours.tolist():
        day = datetime.fromtimestamp(quarter * 900, UTC).astimezone(zone).date()
        found.append(datetime.combine(day, time(), zone).timestamp())
    return np.array(found, np.float64)[place] if found else started.copy()


def _end(day: date, chosen: Profile, free: _Holidays | None, zone: ZoneInfo) -> float:
    last = day
    if chosen.months:
        year, month = divmod(day.year * 12 + day.month - 1 + chosen.months, 12)
        last = date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
    left = chosen.days
    is_free: Callable[[date], bool] = lambda one: one.weekday() >= 5 or (free is not None and one in free)  # noqa: E731
    while left:
        last += timedelta(days=1)
        left -= not (chosen.business and is_free(last))
    return datetime.combine(last + timedelta(days=1), time(), zone).timestamp()


def _holidays(country: str) -> _Holidays:
    try:
        import holidays
    except ImportError as exc:
        raise ValueError(
            "a deadline in business days needs the public holidays: install consent-sync[holidays]"
        ) from exc
    found: _Holidays = holidays.country_holidays(country)
    return found
