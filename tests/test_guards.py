from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_job.consent.channels import CHANNELS
from sync_job.consent.guards import Guard, Judgement, Past, Tally, Thresholds, Trip, at_most, judge
from sync_job.consent.rules import FREE, Hold

DEFAULTS = Thresholds()
NIGHTS = Past(lost=0)


class Case(NamedTuple):
    """One guard: its floor and share, and what an export looks like of which it counts so many of so many clients."""

    guard: Guard
    floor: int
    share: Fraction
    full: Callable[[int, int], Tally]
    delta: Callable[[int, int], Tally]
    hold: Hold = FREE
    only_owed: bool = False


CASES = [
    Case(
        Guard.RE_GRANTS,
        10,
        Fraction(5, 10_000),
        lambda count, of: Tally(snapshot=of, re_grants=count),
        lambda count, of: Tally(snapshot=of, re_grants=count),
        hold=Hold(re_grants=True),
    ),
    Case(
        Guard.NEW_GRANTS,
        500,
        Fraction(2, 100),
        lambda count, of: Tally(snapshot=of, new_grants=count),
        lambda count, of: Tally(snapshot=of, new_grants=count),
        hold=Hold(new_grants=True),
    ),
    Case(
        Guard.CHANGED,
        200,
        Fraction(5, 100),
        lambda count, of: Tally(snapshot=10**9, stating=of + of // 20, known=of, changed=count),
        lambda count, of: Tally(snapshot=of, stating=count, known=count, changed=count),
        only_owed=True,
    ),
    Case(
        Guard.UNKNOWN,
        200,
        Fraction(10, 100),
        lambda count, of: Tally(snapshot=10**9, stating=of, known=of - count),
        lambda count, of: Tally(snapshot=of, stating=count, known=0),
        only_owed=True,
    ),
    Case(
        Guard.LOST,
        50,
        Fraction(1, 1000),
        lambda count, of: Tally(snapshot=10**9, stating=of, known=of, lost=count),
        lambda count, of: Tally(snapshot=of, stating=count, known=count, lost=count),
    ),
]


def _expected(case: Case, count: int, most: int) -> Judgement:
    if count <= most:
        return Judgement()
    return Judgement((Trip(case.guard, count, most),), case.hold, case.only_owed)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.guard.name)
@pytest.mark.parametrize("by", [-1, 0, 1])
def test_a_guard_trips_above_its_floor(case: Case, full: bool, by: int) -> None:
    """Where the share is less than the floor: not below it, not at it, and with one more."""
    of = int(case.floor / case.share) - 1
    tally = (case.full if full else case.delta)(case.floor + by, of)
    assert judge(tally, NIGHTS, DEFAULTS, full=full) == _expected(case, case.floor + by, case.floor)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.guard.name)
@pytest.mark.parametrize("by", [-1, 0, 1])
def test_a_guard_trips_above_its_share(case: Case, full: bool, by: int) -> None:
    """Where the share is more than the floor: not below it, not at it, and with one more."""
    of = 10_000_000
    most = int(case.share * of)
    tally = (case.full if full else case.delta)(most + by, of)
    assert judge(tally, NIGHTS, DEFAULTS, full=full) == _expected(case, most + by, most)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("allowed", [0, 1_999, 2_000, 2_001, 1_000_000])
@pytest.mark.parametrize("by", [-1, 0, 1])
def test_revocations_are_judged_channel_by_channel(place: int, allowed: int, by: int, full: bool) -> None:
    """More than 100 and 5 % of those who have the channel allowed: only that channel's are held."""
    most = max(100, allowed // 20)
    tally = Tally(snapshot=10**9, stating=10**9, known=10**9, allowed=[10**9] * 4)
    tally.revocations[place], tally.allowed[place] = most + by, allowed
    expected = Judgement()
    if by > 0:
        trip = Trip(Guard.REVOCATIONS, most + by, most, CHANNELS[place])
        expected = Judgement((trip,), Hold(revocations=1 << 2 * place))
    assert judge(tally, NIGHTS, DEFAULTS, full=full) == expected


def test_several_channels_are_held_together() -> None:
    """Each trips by itself, and all are said."""
    tally = Tally(revocations=[101, 100, 0, 500], allowed=[0, 0, 0, 10_000])
    found = judge(tally, NIGHTS, DEFAULTS, full=True)
    assert found.hold == Hold(revocations=0b0001)
    tally.revocations[3] = 501
    found = judge(tally, NIGHTS, DEFAULTS, full=True)
    assert found.hold == Hold(revocations=0b01000001)
    assert [trip.channel for trip in found.trips] == ["Sms", "EmailOnlineCheque"]


@pytest.mark.parametrize(
    ("usual", "most"),
    [(0.0, 500), (166.0, 500), (167.0, 501), (1_000.0, 3_000), (333.5, 1_000), (0.5, 500)],
)
@pytest.mark.parametrize("full", [True, False])
def test_new_grants_may_be_three_times_what_is_usual(usual: float, most: int, full: bool) -> None:
    """The median of the last nights counts where three times of it are more than floor and share."""
    past = replace(NIGHTS, usual_grants=usual)
    tally = Tally(snapshot=10_000, stating=10_000, known=10_000)
    assert judge(replace(tally, new_grants=most), past, DEFAULTS, full=full) == Judgement()
    trip = Trip(Guard.NEW_GRANTS, most + 1, most)
    assert judge(replace(tally, new_grants=most + 1), past, DEFAULTS, full=full) == Judgement(
        (trip,), Hold(new_grants=True)
    )


def test_what_is_usual_never_lowers_the_measure() -> None:
    """Quiet nights do not make a floor or a share smaller, and say nothing of re-grants."""
    tally = Tally(snapshot=1_000_000, stating=10**6, known=10**6, new_grants=20_000, re_grants=500)
    assert judge(tally, replace(NIGHTS, usual_grants=1.0), DEFAULTS, full=True) == Judgement()
    found = judge(replace(tally, re_grants=501), replace(NIGHTS, usual_grants=10**6), DEFAULTS, full=True)
    assert found.hold == Hold(re_grants=True)


RENUMBERED = Tally(snapshot=10_000, stating=10_000, known=8_000, changed=8_000)


@pytest.mark.parametrize("full", [True, False])
def test_renumbered_ids_let_nothing_but_obligations_through(full: bool) -> None:
    """Clients that all change, or that nobody knows, stop an export, whatever else is held."""
    found = judge(RENUMBERED, NIGHTS, DEFAULTS, full=full)
    assert found.only_owed
    assert [trip.guard for trip in found.trips] == [Guard.CHANGED, Guard.UNKNOWN]
    assert found.hold == FREE


def test_the_first_export_after_init_is_not_judged_by_its_ids() -> None:
    """Everything changes then; what it grants and revokes is judged all the same, and so is it when it was accepted."""
    tally = replace(RENUMBERED, re_grants=11, new_grants=501, revocations=[101, 0, 0, 0])
    for past, accepted in ((replace(NIGHTS, first=True), False), (NIGHTS, True)):
        found = judge(tally, past, DEFAULTS, full=True, accepted=accepted)
        assert not found.only_owed
        assert found.hold == Hold(True, True, 0b0001)
        assert [trip.guard for trip in found.trips] == [Guard.RE_GRANTS, Guard.NEW_GRANTS, Guard.REVOCATIONS]
    assert judge(tally, NIGHTS, DEFAULTS, full=True).only_owed


@pytest.mark.parametrize(("before", "most"), [(0, 1_000), (7, 1_007), (10**6, 1_001_000)])
def test_lost_consents_are_compared_with_the_last_export(before: int, most: int) -> None:
    """So many more than last time, by more than floor and share, are said and held for nobody."""
    tally = Tally(snapshot=10**6, stating=10**6, known=10**6)
    past = Past(lost=before)
    assert judge(replace(tally, lost=most), past, DEFAULTS, full=True) == Judgement()
    found = judge(replace(tally, lost=most + 1), past, DEFAULTS, full=True)
    assert found == Judgement((Trip(Guard.LOST, most + 1, most),))


def test_lost_consents_are_not_judged_without_an_export_before() -> None:
    """There is nothing to compare the first one of a kind with."""
    assert judge(Tally(stating=10, known=10, lost=10**6), Past(), DEFAULTS, full=True) == Judgement()


def test_a_delta_is_measured_by_the_snapshot() -> None:
    """Only changed clients are in it: that most of them change is what it is for."""
    delta = Tally(snapshot=100_000, stating=1_000, known=900, changed=900, new_grants=100)
    assert judge(delta, NIGHTS, DEFAULTS, full=False) == Judgement()
    assert judge(delta, NIGHTS, DEFAULTS, full=True).only_owed
    # A snapshot smaller than the delta is no measure for it.
    assert judge(replace(delta, snapshot=10, changed=200), NIGHTS, DEFAULTS, full=False) == Judgement()


def test_nothing_trips_where_nothing_changes() -> None:
    """Of nobody, and of a hundred million who are as the platform holds them."""
    many = Tally(snapshot=10**8, stating=10**8, known=10**8, allowed=[10**8] * 4)
    for tally in (Tally(), many):
        for full in (True, False):
            assert judge(tally, NIGHTS, DEFAULTS, full=full) == Judgement()


def test_every_threshold_is_configuration() -> None:
    """With all of them at 0, one client of each kind trips every guard of an export."""
    none: dict[str, Any] = dict.fromkeys(vars(DEFAULTS), 0)
    tally = Tally(
        snapshot=10,
        stating=10,
        known=9,
        new_grants=1,
        re_grants=1,
        revocations=[1] * 4,
        allowed=[9] * 4,
        changed=1,
        lost=1,
    )
    found = judge(tally, NIGHTS, Thresholds(**none), full=True)
    assert [trip.guard for trip in found.trips] == [
        Guard.RE_GRANTS,
        Guard.NEW_GRANTS,
        *[Guard.REVOCATIONS] * 4,
        Guard.CHANGED,
        Guard.UNKNOWN,
        Guard.LOST,
    ]
    assert (found.hold, found.only_owed) == (Hold(True, True, 0b01010101), True)
    assert {(trip.count, trip.at_most) for trip in found.trips} == {(1, 0)}


@given(
    floor=st.integers(0, 1000),
    share=st.decimals(0, 1, places=4),
    base=st.integers(0, 2**31),
)
def test_a_share_is_the_one_that_was_written(floor: int, share: Any, base: int) -> None:
    """29 % of 100 clients are 29, whatever binary fractions make of it."""
    assert at_most(floor, float(share), base) == max(floor, int(Fraction(share) * base))


def test_what_is_usual_is_multiplied_as_it_was_written() -> None:
    """1.15 times 20 are 23, and the 23rd grant is let through."""
    limits = replace(DEFAULTS, new_grants=0, new_grants_share=0.0, new_grants_nights=1.15)
    past = replace(NIGHTS, usual_grants=20.0)
    tally = Tally(snapshot=1, stating=1, known=1, new_grants=23)
    assert judge(tally, past, limits, full=True) == Judgement()


def test_a_trip_says_its_numbers() -> None:
    """The guard, how many, of which channel, and how many it lets through."""
    assert str(Trip(Guard.REVOCATIONS, 12_345, 1_000, "Push")) == "12,345 revocations of Push, more than 1,000"
    assert str(Trip(Guard.LOST, 51, 50)) == "51 lost consents, more than 50"
