import sys
import time
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from zoneinfo import ZoneInfo

import holidays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sync_job.config.sections import WithdrawalSettings
from sync_job.consent.deadlines import PROFILES, check, limits

HOUR = 3600.0
BUSINESS = sorted(name for name, profile in PROFILES.items() if profile.business)
# Clocks that change at midnight, at 2 and at 3, by half an hour, that skip a day, and that never change.
ZONES = [
    ZoneInfo(name)
    for name in (
        *("UTC", "Europe/Moscow", "Europe/Berlin", "America/New_York", "America/Havana", "America/Santiago"),
        *("Africa/Cairo", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "Pacific/Kiritimati"),
    )
]
# In milliseconds: of two moments a fraction of a microsecond apart nobody can say which day they are on.
moments = st.integers(
    int(datetime(2011, 1, 1, tzinfo=UTC).timestamp()) * 1000, int(datetime(2035, 1, 1, tzinfo=UTC).timestamp()) * 1000
).map(lambda one: one / 1000)


def _limit(started: float, profile: str, zone: ZoneInfo) -> float:
    return float(limits(np.array([started]), limit_h=48, profile=profile, zone=zone)[0])


def _until(text: str, profile: str, zone: str = "UTC") -> str:
    """Return the limit of what was received at a local time, as local time in the same zone."""
    here = ZoneInfo(zone)
    found = _limit(datetime.fromisoformat(text).replace(tzinfo=here).timestamp(), profile, here)
    return datetime.fromtimestamp(found, here).isoformat(" ", "minutes")[:16]


# Hours


@given(st.lists(moments), st.floats(0.5, 500))
def test_without_a_profile_the_limit_is_so_many_hours_later(started: list[float], hours: float) -> None:
    """Hours are hours, whatever clocks are changed in between."""
    found = limits(np.array(started, np.float64), limit_h=hours, profile="", zone=ZoneInfo("Europe/Berlin"))
    assert found.tolist() == [one + 3600 * hours for one in started]


# Days


@pytest.mark.parametrize(
    ("received", "profile", "until"),
    [
        ("2026-08-03 00:00", "can-spam", "2026-08-18 00:00"),  # a Monday: to the end of Monday the 17th
        ("2026-08-03 23:59", "can-spam", "2026-08-18 00:00"),
        ("2026-08-04 00:00", "can-spam", "2026-08-19 00:00"),
        ("2026-08-07 12:00", "can-spam", "2026-08-22 00:00"),  # a Friday
        ("2026-08-08 12:00", "can-spam", "2026-08-22 00:00"),  # on a weekend as on the Friday before
        ("2026-08-09 12:00", "can-spam", "2026-08-22 00:00"),
        ("2026-11-20 12:00", "can-spam", "2026-12-08 00:00"),  # Thanksgiving is none of the ten
        ("2026-06-26 12:00", "can-spam", "2026-07-14 00:00"),  # the Fourth on a Saturday is kept on Friday
        ("2026-06-26 12:00", "casl", "2026-07-14 00:00"),  # Canada Day, a Wednesday
        ("2026-08-03 12:00", "au-spam", "2026-08-08 00:00"),  # its own day is the first of the five
        ("2026-08-08 12:00", "au-spam", "2026-08-15 00:00"),  # on a Saturday the Monday is
        ("2026-04-01 12:00", "au-spam", "2026-04-10 00:00"),  # Good Friday and Easter Monday
        ("2026-03-05 12:00", "gdpr-month", "2026-04-06 00:00"),  # to the end of the same date
        ("2026-08-31 12:00", "gdpr-month", "2026-10-01 00:00"),  # or of a month that has no such date
        ("2027-01-30 12:00", "gdpr-month", "2027-03-01 00:00"),
        ("2028-01-31 12:00", "gdpr-month", "2028-03-01 00:00"),
        ("2026-12-31 12:00", "gdpr-month", "2027-02-01 00:00"),  # into another year
    ],
)
def test_a_profile_ends_with_its_last_day(received: str, profile: str, until: str) -> None:
    """Counted by hand, from the calendar."""
    assert _until(received, profile) == until


def test_days_are_those_of_the_zone() -> None:
    """What comes in on Monday evening in New York came in on Tuesday in UTC."""
    assert _until("2026-08-03 23:00", "can-spam", "America/New_York") == "2026-08-18 00:00"
    utc = _limit(datetime(2026, 8, 4, 3, tzinfo=UTC).timestamp(), "can-spam", ZoneInfo("UTC"))
    assert datetime.fromtimestamp(utc, UTC) == datetime(2026, 8, 19, tzinfo=UTC)


@pytest.mark.parametrize(
    ("received", "zone", "until"),
    [
        ("2026-03-20 12:00", "Europe/Berlin", "2026-04-21 00:00"),  # clocks go forward in between
        ("2026-10-20 12:00", "Europe/Berlin", "2026-11-21 00:00"),  # and back
        ("2026-03-29 12:00", "Europe/Berlin", "2026-04-30 00:00"),  # on the day itself
        ("2026-10-25 02:30", "Europe/Berlin", "2026-11-26 00:00"),
        ("2026-03-23 12:00", "Africa/Cairo", "2026-04-24 01:00"),  # the last day ends when clocks skip its midnight
    ],
)
def test_the_end_of_a_day_is_midnight_by_the_clocks_of_the_zone(received: str, zone: str, until: str) -> None:
    """A change of clocks moves no deadline by an hour."""
    assert _until(received, "gdpr-month", zone) == until


def test_an_hour_that_comes_twice_is_of_one_day() -> None:
    """In Havana clocks go from 01:00 back to 00:00: both hours are of the same day, and so is its limit."""
    zone = ZoneInfo("America/Havana")
    first = datetime(2026, 11, 1, 0, 30, tzinfo=zone).timestamp()
    found = {_limit(first + 3600 * hour, "gdpr-month", zone) for hour in range(2)}
    assert found == {datetime(2026, 12, 2, tzinfo=zone).timestamp()}


@given(moments, st.sampled_from(sorted(PROFILES)), st.sampled_from(ZONES))
def test_a_limit_comes_after_its_start(started: float, profile: str, zone: ZoneInfo) -> None:
    """And it leaves at least the days that the profile gives, less the one of receipt."""
    chosen = PROFILES[profile]
    left = _limit(started, profile, zone) - started
    assert left > (chosen.days - chosen.from_receipt) * 86400 + chosen.months * 28 * 86400 - 25 * HOUR
    assert left > 0


@given(st.lists(moments, min_size=1), st.sampled_from(sorted(PROFILES)), st.sampled_from(ZONES))
def test_what_began_later_is_due_no_earlier(started: list[float], profile: str, zone: ZoneInfo) -> None:
    """And many at once have the same limits as each alone."""
    inorder = sorted(started)
    found = limits(np.array(inorder), limit_h=48, profile=profile, zone=zone).tolist()
    assert found == sorted(found)
    assert found == [_limit(one, profile, zone) for one in inorder]


@given(moments, st.sampled_from(BUSINESS), st.sampled_from(ZONES))
def test_a_deadline_in_business_days_never_ends_on_a_free_day(started: float, profile: str, zone: ZoneInfo) -> None:
    """Its last day is neither Saturday, Sunday nor a holiday, and just so many business days lie before its end."""
    chosen = PROFILES[profile]
    free = holidays.country_holidays(chosen.country)
    last = datetime.fromtimestamp(_limit(started, profile, zone) - 1, zone).date()
    day = datetime.fromtimestamp(started, zone).date() + timedelta(days=not chosen.from_receipt)
    business = [one for one in _days(day, last) if one.weekday() < 5 and one not in free]
    assert business[-1] == last
    skipped = _skipped(zone, day, last)
    assert len(business) - skipped <= chosen.days <= len(business)


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=one) for one in range((last - first).days + 1)]


def _skipped(zone: ZoneInfo, first: date, last: date) -> int:
    """Return how many of these dates the zone never had: Samoa went from the 29th to the 31st of December 2011."""
    return sum(
        datetime.combine(day, clock(12), zone).astimezone(UTC).astimezone(zone).date() != day
        for day in _days(first, last)
    )


@given(moments, st.sampled_from(sorted(PROFILES)), st.sampled_from(ZONES))
def test_a_day_has_one_deadline(started: float, profile: str, zone: ZoneInfo) -> None:
    """From its first second to its last."""
    day = datetime.fromtimestamp(started, zone).date()
    noon = datetime.combine(day, clock(12), zone).timestamp()
    assert _limit(started, profile, zone) == _limit(noon, profile, zone)


# Names, and what is missing


def test_each_profile_names_its_law_and_counts_something() -> None:
    """A deadline without a source is nobody's; a country is named where its holidays are needed."""
    for profile in PROFILES.values():
        assert profile.law
        assert profile.days + profile.months > 0
        assert bool(profile.country) == profile.business


def test_an_unknown_profile_is_refused_by_name() -> None:
    """With those that are known, and in the configuration likewise."""
    with pytest.raises(ValueError, match=r"'gdpr' is no known deadline; known are 'can-spam', .*'gdpr-month'"):
        limits(np.zeros(1), limit_h=48, profile="gdpr", zone=ZoneInfo("UTC"))
    with pytest.raises(ValidationError, match="'gdpr' is no known deadline"):
        WithdrawalSettings.model_validate({"profile": "gdpr"})


def test_business_days_need_the_holidays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are not installed the configuration already says so, and not a run with a list half taken in."""
    monkeypatch.setitem(sys.modules, "holidays", None)
    for name in BUSINESS:
        with pytest.raises(ValueError, match=r"install consent-sync\[holidays\]"):
            limits(np.zeros(0), limit_h=48, profile=name, zone=ZoneInfo("UTC"))
        with pytest.raises(ValidationError, match=r"install consent-sync\[holidays\]"):
            WithdrawalSettings.model_validate({"profile": name})
    for name in ("", "gdpr-month"):
        check(name)
        assert len(limits(np.zeros(1), limit_h=48, profile=name, zone=ZoneInfo("UTC"))) == 1


@pytest.mark.parametrize("profile", ["", *PROFILES])
def test_nothing_received_has_no_limits(profile: str) -> None:
    """An empty list stays one, of the same type."""
    found = limits(np.zeros(0), limit_h=48, profile=profile, zone=ZoneInfo("UTC"))
    assert found.dtype == np.float64
    assert found.shape == (0,)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_million_withdrawals_are_no_work(profile: str) -> None:
    """Only days are looked at one by one: ten years of them take a moment."""
    newest = datetime(2026, 11, 24, tzinfo=UTC).timestamp()
    started = newest - np.random.default_rng(7).random(1_000_000) * 10 * 365 * 86400
    limits(started[:10], limit_h=48, profile=profile, zone=ZONES[1])  # the library of holidays is read once
    before = time.process_time()
    found = limits(started, limit_h=48, profile=profile, zone=ZONES[1])
    assert time.process_time() - before < 2  # a third of a second on an idle machine
    assert bool((found > started).all())
