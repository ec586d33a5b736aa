"""Until when a denial is to be acknowledged: hours after it was received, or a statutory date where one is named."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

_DAY = timedelta(days=1)
_DAY_S = 86400


@dataclass(frozen=True)
class Profile:
    """A statutory deadline: so many days or months after receipt, by business days of a country, and by which law.

    *from_receipt*: the day of receipt is the first that counts, and not the day after.
    """

    days: int
    months: int
    business: bool
    country: str
    law: str
    from_receipt: bool = False


# A deadline ends with its last day; business days are Monday to Friday and no public holidays of the whole country,
# so that one of a single state or province makes it no later. Where a law starts its clock when the person sends the
# request, as CASL and the Spam Act do, receipt stands for that: over a wire the two are the same.
# Laws that say "at once" (GDPR 7(3) and 21(3), Russian 38-FZ art. 18(1)) have no profile: they are what hours are for.
PROFILES = {
    # "more than 10 business days after the receipt of such request"
    "can-spam": Profile(10, 0, True, "US", "CAN-SPAM Act, 15 U.S.C. 7704(a)(4): 10 business days"),
    # "without delay, and in any event no later than 10 business days after the indication has been sent"
    "casl": Profile(10, 0, True, "CA", "CASL, S.C. 2010 c. 23, s. 11(3): without delay, at most 10 business days"),
    # A withdrawal takes effect at the end of five business days; by the stricter reading its own day is the first.
    "au-spam": Profile(5, 0, True, "AU", "Spam Act 2003, Schedule 2 clause 6: 5 business days", from_receipt=True),
    # "without undue delay and in any event within one month of receipt of the request", counted as Regulation 1182/71
    # art. 3(2)(c) says: until the end of the same date, or of the month where it has none. That an end on a weekend
    # moves to the next working day (art. 3(4)) is not made use of.
    "gdpr-month": Profile(0, 1, False, "", "GDPR 12(3): one month, for requests in general"),
}


class _Holidays(Protocol):
    def __contains__(self, day: date) -> bool: ...


def check(profile: str) -> None:
    """Accept the name of a profile whose deadline can be told, or none.

    Raises:
        ValueError: for an unknown profile, or one that needs the extra `holidays` where it is not installed.
    """
    if profile and profile not in PROFILES:
        raise ValueError(f"{profile!r} is no known deadline; known are {', '.join(map(repr, PROFILES))}")
    if profile and PROFILES[profile].business:
        _holidays(PROFILES[profile].country)


def limits(started: Times, *, limit_h: float, profile: str, zone: ZoneInfo) -> Times:
    """Return until when what began at *started* is to be acknowledged, all in epoch seconds.

    Without a *profile* that is *limit_h* hours later. With one it is the end of its last day in *zone*: the day of
    receipt does not count, but where the profile says so.

    Raises:
        ValueError: as `check` does.
    """
    check(profile)
    if not profile:
        return started + 3600 * limit_h
    if not len(started):
        return started.copy()
    chosen = PROFILES[profile]
    free = _holidays(chosen.country) if chosen.business else None
    # A thousand withdrawals of one day have one deadline: only the days are looked at one by one.
    days = _local_days(started)
    place = np.searchsorted([_midnight(day, zone) for day in days], started, "right") - 1
    used, which = np.unique(place, return_inverse=True)
    ends = np.array([_midnight(_last(days[one], chosen, free) + _DAY, zone) for one in used.tolist()], np.float64)
    return ends[which]


def _local_days(started: Times) -> list[date]:
    """Return, ascending, every date that any zone may have at these times, and the one after each."""
    numbers = np.unique(np.floor(started / _DAY_S).astype(np.int64))
    around = np.unique(np.concatenate([numbers + shift for shift in (-1, 0, 1, 2)]))
    epoch = datetime.fromtimestamp(0, UTC).date()
    return [epoch + timedelta(days=one) for one in around.tolist()]


def _midnight(day: date, zone: ZoneInfo) -> float:
    """Return when a date begins; where clocks skip its midnight, when they skip it."""
    return datetime.combine(day, time(), zone).timestamp()


def _last(day: date, chosen: Profile, free: _Holidays | None) -> date:
    """Return the last day of the deadline of what was received on *day*."""
    last = day
    if chosen.months:
        year, month = divmod(day.year * 12 + day.month - 1 + chosen.months, 12)
        last = date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
    if chosen.from_receipt:
        last -= _DAY
    left = chosen.days
    while left:
        last += _DAY
        left -= not (chosen.business and _is_free(last, free))
    return last


def _is_free(day: date, free: _Holidays | None) -> bool:
    return day.weekday() >= 5 or (free is not None and day in free)


def _holidays(country: str) -> _Holidays:
    try:
        import holidays
    except ImportError as exc:
        raise ValueError(
            "a deadline in business days needs the public holidays: install consent-sync[holidays]"
        ) from exc
    found: _Holidays = holidays.country_holidays(country)
    return found
