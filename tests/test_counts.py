import copy
from typing import Any

import numpy as np
import pytest

from sync_job.consent.channels import CHANNELS
from sync_job.consent.diff import Counts
from sync_job.consent.fold import Outcome
from sync_job.consent.rows import Lane, Rows
from sync_job.errors import CountsError
from sync_job.report import counts

GOOD: dict[str, Any] = {
    "export": {"rows": 12, "clients": 10, "in_rejects_only": 1, "duplicates": 1, "rejects": 2},
    "decided": {
        "stated": 10,
        "planned": 6,
        "planned_unstated": 2,
        "forgotten": 0,
        "waiting": 1,
        "blocked": 1,
        "held": 2,
        "unchanged": 2,
    },
    "outcomes": {"delivered": 3, "refused": 1, "exhausted": 1, "deferred": 1},
    "planned": 6,
}


def test_counts_that_add_up_pass() -> None:
    """With an export, and for a run that had none."""
    counts.check(GOOD)
    counts.check(GOOD | {"export": None, "decided": None})
    counts.check({"outcomes": {}, "planned": 0})


@pytest.mark.parametrize(
    ("section", "name"),
    [(section, name) for section in ("export", "decided", "outcomes") for name in GOOD[section]] + [("", "planned")],
)
@pytest.mark.parametrize("by", [1, -1])
def test_any_count_that_is_off_by_one_is_a_bug(section: str, name: str, by: int) -> None:
    """Each is part of a sum that is held; exit 70."""
    wrong = copy.deepcopy(GOOD)
    (wrong[section] if section else wrong)[name] += by
    with pytest.raises(CountsError, match=r"add up to .*bug") as raised:
        counts.check(wrong)
    assert raised.value.exit_code == 70


def test_outcomes_are_counted_by_name() -> None:
    """All four are there, also those that did not occur."""
    ended = np.array([Outcome.DELIVERED, Outcome.DEFERRED, Outcome.DELIVERED], np.uint8)
    assert counts.outcomes(ended) == {"delivered": 2, "refused": 0, "exhausted": 0, "deferred": 1}
    assert counts.outcomes(np.zeros(0, np.uint8)) == counts.added([])
    twice = counts.added([counts.outcomes(ended), counts.outcomes(ended)])
    assert twice == {"delivered": 4, "refused": 0, "exhausted": 0, "deferred": 2}


def test_held_and_blocked_are_named_by_channel() -> None:
    """The other counts are as they were."""
    found = counts.decided(Counts(stated=3, planned=2, held=1, held_channels=[1, 0, 0, 2]))
    assert found["held_channels"] == dict(zip(CHANNELS, (1, 0, 0, 2), strict=True))
    assert found["blocked_channels"] == dict.fromkeys(CHANNELS, 0)
    assert (found["stated"], found["planned"], found["held"]) == (3, 2, 1)


def test_changes_are_counted_by_transition_and_lane() -> None:
    """From State to what is sent, a channel at a time."""
    rows = Rows(
        np.array([1, 2, 3], np.int32),
        np.array([0, 2, 1], np.uint8),
        np.zeros(3, np.uint8),
        np.array([2, 1, 2], np.uint8),
        np.array([Lane.GRANT, Lane.REVOCATION, Lane.GRANT], np.uint8),
    )
    found = counts.changes(rows)
    assert found["lanes"] == {"obligation": 0, "withdrawal": 0, "revocation": 1, "denial": 0, "grant": 2}
    assert found["transitions"]["Sms"] == {
        "nothing": {"denied": 0, "allowed": 1},
        "denied": {"denied": 0, "allowed": 1},
        "allowed": {"denied": 1, "allowed": 0},
    }
    assert all(not sum(to.values()) for to in found["transitions"]["Push"].values())


def _code(outcome: str, message: str, count: int = 1) -> dict[str, Any]:
    return {"outcome": outcome, "status": 200, "code": 8, "message": message, "count": count}


def test_what_the_platform_says_is_new_known_or_gone() -> None:
    """Of what did not end well; how often it was said does not matter."""
    before = [_code("refused", "a", 5), _code("exhausted", "b"), _code("delivered", "c"), _code("deferred", "d")]
    now, gone = counts.held_against([_code("refused", "a"), _code("refused", "b", 3), _code("delivered", "e")], before)
    assert [(one["message"], one.get("since"), one["count"]) for one in now] == [
        ("a", "known", 1),
        ("b", "new", 3),
        ("e", None, 1),
    ]
    assert gone == [{"outcome": "exhausted", "status": 200, "code": 8, "message": "b"}]
    assert counts.held_against([], []) == ([], [])
