from typing import Any

import pytest

from sync_job.consent.freshness import Before, Doubt, Finding, Seen, judge
from sync_job.consent.guards import Guard, Thresholds, Trip

NOW, HOUR = 1_700_000_000.0, 3600.0
FRESH = Seen(as_of=NOW - HOUR, clients=10_000, rows=10_000, rejects=0)
LAST = Before(as_of=NOW - 25 * HOUR, clients=10_000)


def _doubts(seen: Seen = FRESH, before: Before = LAST, **differently: Any) -> list[Finding]:
    terms: dict[str, Any] = {"dated": True, "max_age_s": 36 * HOUR, "now": NOW, "full": True, "accepted": False}
    return judge(seen, before, limits=Thresholds(), **terms | differently)


def _kinds(found: list[Finding]) -> list[Doubt]:
    return [one.doubt for one in found]


@pytest.mark.parametrize("full", [True, False])
def test_a_fresh_export_raises_no_doubt(full: bool) -> None:
    """Newer than the last one, young enough, whole, and with nothing before it either."""
    assert _doubts(full=full) == []
    assert _doubts(before=Before(), full=full) == []


@pytest.mark.parametrize(("by_s", "older"), [(-1.0, True), (0.0, False), (1.0, False)])
def test_an_export_older_than_the_last_one_is_in_doubt(by_s: float, older: bool) -> None:
    """By a second; the same age is not older."""
    found = _doubts(Seen(NOW - HOUR + by_s, 10_000, 10_000, 0), Before(NOW - HOUR, clients=10_000))
    assert _kinds(found) == [Doubt.OLDER] * older


@pytest.mark.parametrize(("age_s", "aged"), [(36 * HOUR - 1, False), (36 * HOUR, False), (36 * HOUR + 1, True)])
def test_an_export_that_is_too_old_is_in_doubt(age_s: float, aged: bool) -> None:
    """Beyond `max_age_h`, not at it, though it is newer than the last one."""
    found = _doubts(Seen(NOW - age_s, 10_000, 10_000, 0), Before(NOW - 40 * HOUR, clients=10_000))
    assert _kinds(found) == [Doubt.AGED] * aged


def test_an_export_without_a_date_is_in_doubt_where_one_is_expected() -> None:
    """Nothing else can be said of its age then."""
    assert _kinds(_doubts(Seen(None, 10_000, 10_000, 0))) == [Doubt.UNDATED]


def test_ages_do_not_matter_where_the_configuration_knows_none() -> None:
    """`as_of = "none"` is a choice: neither missing, nor old, nor older is a doubt."""
    for as_of in (None, 0.0, NOW - 26 * HOUR):
        assert _doubts(Seen(as_of, 10_000, 10_000, 0), dated=False) == []


@pytest.mark.parametrize(
    ("as_of", "last", "dated", "doubted"),
    [
        (NOW - HOUR, NOW - 2 * HOUR, True, False),  # made anew, with the same content
        (NOW - HOUR, NOW - HOUR, True, True),
        (NOW - HOUR, None, True, True),
        (NOW - HOUR, NOW - 2 * HOUR, False, True),  # a date that nobody vouches for
        (None, None, False, True),
    ],
)
def test_an_old_content_is_in_doubt_unless_it_was_made_anew(
    as_of: float | None, last: float | None, dated: bool, doubted: bool
) -> None:
    """What was applied before, and another one since, is taken for a replay unless its as-of is newer."""
    found = _doubts(Seen(as_of, 10_000, 10_000, 0), Before(last, replayed=True, clients=10_000), dated=dated)
    assert _kinds(found) == [Doubt.REPLAYED] * doubted


def test_a_replay_may_be_older_as_well() -> None:
    """Every doubt is said."""
    found = _doubts(Seen(NOW - 40 * HOUR, 10, 10_000, 10_000), Before(NOW, replayed=True, clients=10_000))
    assert _kinds(found) == [Doubt.OLDER, Doubt.AGED, Doubt.REPLAYED, Doubt.SHRUNKEN, Doubt.REJECTS]


@pytest.mark.parametrize("by", [-1, 0, 1])
@pytest.mark.parametrize(("before", "most"), [(100, 20), (999, 20), (1_000, 20), (1_050, 21), (10_000_000, 200_000)])
def test_an_export_with_far_fewer_clients_is_in_doubt(before: int, most: int, by: int) -> None:
    """Fewer than the last accepted one by more than 20 and more than 2 %: it may have been cut short."""
    seen = Seen(NOW - HOUR, before - most - by, 10**7, 0)
    found = _doubts(seen, Before(clients=before))
    assert [(one.doubt, one.trip) for one in found] == [
        (Doubt.SHRUNKEN, Trip(Guard.SHRINKAGE, most + by, most)),
    ] * (by > 0)


def test_shrinkage_is_judged_of_full_exports_that_nobody_accepted() -> None:
    """A delta has few clients by nature, the first export nothing to compare with, and growing is no shrinkage."""
    small = Seen(NOW - HOUR, 10, 10, 0)
    assert _kinds(_doubts(small)) == [Doubt.SHRUNKEN]
    assert _doubts(small, full=False) == []
    assert _doubts(small, accepted=True) == []
    assert _doubts(small, Before(as_of=LAST.as_of)) == []
    assert _doubts(Seen(NOW - HOUR, 10**6, 10**6, 0)) == []


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("by", [-1, 0, 1])
@pytest.mark.parametrize(("rows", "most"), [(60, 50), (4_999, 50), (5_000, 50), (5_100, 51), (10_000_000, 100_000)])
def test_an_export_with_many_rejects_is_in_doubt(rows: int, most: int, by: int, full: bool) -> None:
    """More than 50 and more than 1 % of its rows, of any export, also of an accepted one."""
    seen = Seen(NOW - HOUR, 10_000, rows, most + by)
    for accepted in (False, True):
        found = _doubts(seen, full=full, accepted=accepted)
        assert [(one.doubt, one.trip) for one in found] == [
            (Doubt.REJECTS, Trip(Guard.REJECTS, most + by, most)),
        ] * (by > 0)


def test_accepting_clients_proves_no_age() -> None:
    """An approval of its size lifts no other doubt."""
    found = _doubts(Seen(NOW - 40 * HOUR, 10, 100, 60), Before(NOW, replayed=True, clients=10_000), accepted=True)
    assert _kinds(found) == [Doubt.OLDER, Doubt.AGED, Doubt.REPLAYED, Doubt.REJECTS]


def test_each_doubt_says_its_numbers() -> None:
    """In words that stand behind "the export may not grant"."""
    found = _doubts(Seen(NOW - 40 * HOUR, 9_000, 10_000, 101), Before(NOW - 30 * HOUR, replayed=True, clients=10_000))
    assert [one.why for one in found] == [
        "it is 10.0 h older than the newest export that was read",
        "it is 40.0 h old, more than max_age_h = 36",
        "this content was read before, and another one since",
        "it has 9,000 clients, 1,000 fewer than the last accepted one, more than 200: was it cut short?",
        "101 of its rows are rejects, more than 100",
    ]
