"""What a notification says, and whether one is due: pure functions of summaries."""

import json
from typing import Any

import pytest

from sync_job.errors import Exit
from sync_job.report import notify
from sync_job.report.words import Words

TARGET = "https://loyalty.example.com operator 1"
# What a night leaves, as far as a notification looks.
NIGHT: dict[str, Any] = {
    "kind": "run",
    "run": "0012-20261124T020000Z",
    "target": TARGET,
    "started": 1_795_400_000.0,
    "ended": 1_795_400_060.0,
    "exit": 1,
    "reasons": ["2 rows could not be read and 3 clients were not done; 5 of them new since the last run"],
    "export": {"rejects": 2, "digest": "ab"},
    "decided": {"held": 4, "blocked": 1, "unchanged": 0, "stated": 20},
    "outcomes": {"delivered": 10, "refused": 3, "exhausted": 0, "deferred": 0},
    "planned": 13,
    "codes": [],
    "withdrawals": {"open": 2, "past_limit": 0, "past_target": 0, "last_acknowledged": None},
    "folder": "/srv/reports/0012-20261124T020000Z",
}


def said(found: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the message of a run."""
    return notify.message(found, [], Words(), **more)


def test_the_message_has_what_a_program_needs() -> None:
    """Run, target, state, counts and where the report is, under names that stay."""
    found = said(NIGHT, before="fine", config="/etc/nightly.toml")
    assert found | {"headline": "", "next": []} == {
        "schema": 1,
        "event": "ended",
        "kind": "run",
        "run": NIGHT["run"],
        "target": TARGET,
        "exit": 1,
        "state": "look",
        "before": "fine",
        "headline": "",
        "reasons": NIGHT["reasons"],
        "next": [],
        "counts": {
            "planned": 13,
            "delivered": 10,
            "refused": 3,
            "exhausted": 0,
            "deferred": 0,
            "rejects": 2,
            "held": 4,
            "blocked": 1,
            "obligations_open": 2,
            "obligations_past_limit": 0,
        },
        "started": NIGHT["started"],
        "ended": NIGHT["ended"],
        "folder": NIGHT["folder"],
    }
    assert found["headline"].endswith(".")
    assert all(step["text"] for step in found["next"])
    assert any("--config /etc/nightly.toml" in step["command"] for step in found["next"])
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("code", [code for code in Exit if code is not Exit.OK])
def test_a_run_that_died_before_its_report_has_a_message_for_every_code(code: Exit) -> None:
    """It counts nothing, says why, and what to do."""
    found = said(notify.ended("run", TARGET, 0.0, 1.0, summary=None, code=code, why="export.csv: not there."))
    assert found["exit"] == code
    assert found["state"] in ("look", "act")
    assert (found["run"], found["counts"], found["folder"]) == (None, None, None)
    assert found["reasons"] == ["export.csv: not there."]
    assert found["headline"]


def test_an_error_after_the_report_is_said_with_it() -> None:
    """The graver code counts, and its reason comes first; one that the report has already is not said twice."""
    found = notify.ended("run", TARGET, 0.0, 1.0, summary=NIGHT, code=Exit.STATE, why="the inbox cannot be read")
    assert (found["exit"], found["run"]) == (4, NIGHT["run"])
    assert found["reasons"] == ["the inbox cannot be read", *NIGHT["reasons"]]
    again = notify.ended("run", TARGET, 0.0, 1.0, summary=NIGHT, code=Exit.ATTENTION, why=NIGHT["reasons"][0])
    assert again["reasons"] == NIGHT["reasons"]


def test_a_chat_takes_nothing_for_a_link() -> None:
    """&, < and > are escaped everywhere, as in a reason that quotes a page of HTML."""
    found = notify.slack(said(NIGHT | {"reasons": ["the last was: <!channel> & <b>no</b>"], "folder": "/srv/a&b"}))
    assert list(found) == ["text"]
    assert "• the last was: &lt;!channel&gt; &amp; &lt;b&gt;no&lt;/b&gt;" in found["text"]
    assert "/srv/a&amp;b" in found["text"]
    assert "<" not in found["text"]
    assert "0012-20261124T020000Z" in found["text"]


def test_reasons_are_kept_short() -> None:
    """A chat cuts off what is too long, wherever that is; we do it by reasons."""
    found = said(NIGHT | {"reasons": ["x" * 5000] * 50})
    assert len(found["reasons"]) == 20
    assert all(len(reason) == 600 for reason in found["reasons"])


def test_the_lines_of_a_ping_say_the_code_and_why() -> None:
    """A monitor shows them beside the failure."""
    first, *rest = notify.lines(said(NIGHT)).splitlines()
    assert first == "run 0012-20261124T020000Z: exit 1"
    assert NIGHT["reasons"][0] in rest


@pytest.mark.parametrize(
    ("when", "kind", "state", "before", "due"),
    [
        ("change", "run", "fine", None, False),
        ("change", "run", "look", None, True),
        ("change", "run", "look", "look", False),
        ("change", "run", "fine", "look", True),
        ("always", "run", "fine", "fine", True),
        ("trouble", "run", "fine", "act", False),
        ("trouble", "run", "act", "act", True),
        ("always", "drain", "act", "act", False),
        ("trouble", "drain", "act", "fine", True),
        ("always", "opt-out", "fine", None, False),
    ],
)
def test_when_a_webhook_is_told(when: notify.When, kind: str, state: Any, before: Any, due: bool) -> None:
    """By `when`; what runs every quarter of an hour speaks on a change alone."""
    assert notify.is_due(when, kind, state, before) == due


def test_which_codes_are_a_failure_to_a_monitor() -> None:
    """All but 0, and 1 where that is said; busy is neither, for no run was begun."""
    found = {int(code): notify.ping(code, "success") for code in Exit}
    assert found == dict.fromkeys(found, "/fail") | {0: "", 1: "", 75: None}
    assert notify.ping(1, "fail") == "/fail"
    assert notify.ping(0, "fail") == ""
