"""What people read: each number of a summary is there, what matters first, and nothing that is zero."""

import shlex
from typing import Any

import pytest

from sync_job.errors import Exit
from sync_job.report import plan_text, text, withdrawals_text

NOW = 1_795_000_000.0
NOBODY = dict.fromkeys(("Sms", "Email", "Push", "EmailOnlineCheque"), 0)
OWED = {"open": 0, "parked": 0, "past_limit": 0, "oldest_started": None}


def export(**said: Any) -> dict[str, Any]:
    """Return what a summary says of an export of a thousand."""
    return {
        "rows": 1000,
        "clients": 1000,
        "duplicates": 0,
        "conflicting": 0,
        "rejects": 0,
        "reasons": {},
        "missing_columns": [],
        "as_of": NOW - 9000,
    } | said


def decided(**said: Any) -> dict[str, Any]:
    """Return how the clients of an export were decided."""
    return {
        "stated": 1000,
        "planned": 0,
        "unchanged": 1000,
        "waiting": 0,
        "held": 0,
        "blocked": 0,
        "forgotten": 0,
        "absent": 0,
        "held_channels": NOBODY,
        "blocked_channels": NOBODY,
    } | said


def grants(**said: Any) -> dict[str, Any]:
    """Return what an export asks for."""
    return {"new": 0, "re": 0, "revocations": NOBODY, "lost": 0, "unknown": 0} | said


def summary(**said: Any) -> dict[str, Any]:
    """Return the summary of a quiet night."""
    outcomes = dict.fromkeys(("delivered", "refused", "exhausted", "deferred"), 0)
    return {
        "kind": "run",
        "run": "0012-20261124T021500Z",
        "target": "https://platform.example operator 7",
        "started": NOW,
        "exit": 0,
        "reasons": [],
        "restrict_only": "",
        "doubts": [],
        "guards": [],
        "approvals": [],
        "approvable": {},
        "grants": grants(),
        "withdrawals": OWED,
        "as_of": "mtime",
        "export": export(),
        "decided": decided(),
        "lanes": {},
        "transitions": {},
        "planned": 0,
        "outcomes": outcomes,
        "requests": 0,
        "requests_per_s": 0.0,
        "delivery": None,
        "codes": [],
        "seconds": {"read": 1.0},
        "folder": "reports/0012",
    } | said


def planned(**said: Any) -> dict[str, Any]:
    """Return what a plan of nothing says."""
    about = {"kind": "plan", "run": "", "requests": 0, "lists_waiting": 0, "recovers": [], "plan": None}
    return summary(**about, least_seconds=None, likely_seconds=None) | said


def test_a_quiet_night_has_no_line_of_zeros() -> None:
    """Nothing asked for, nothing held, nothing owed: no line says so."""
    said = text.summary(summary())
    for word in ("asked for", "owed", "absent", "approve", "held.csv", "blocked.csv", "forgotten", "endpoint", "!"):
        assert word not in said
    assert said.splitlines()[-1] == "exit 0: all delivered"


def test_what_was_held_stands_first_with_the_command_that_approves_it() -> None:
    """Why, then the command with the run and the number, then all the rest; it names the configuration."""
    found = summary(
        exit=6,
        reasons=["149 re-grants, more than 10: held until approved (held.csv), or until the export is mended"],
        approvable={"grants": 149, "revocations": 0, "clients": 0},
        decided=decided(unchanged=851, held=149, held_channels=NOBODY | {"Sms": 149}),
    )
    lines = text.summary(found, "my configs/nightly.toml").splitlines()
    assert lines[1].startswith("  ! 149 re-grants, more than 10")
    assert lines[2].startswith("  approve ")
    command = shlex.split(lines[2].split("approve    ")[1])
    assert command[:5] == ["consent-sync", "approve", "12", "--grants", "149"]
    assert command[-2:] == ["--config", "my configs/nightly.toml"]
    assert sum("consent-sync approve" in line for line in lines) == 1
    assert "    held               149 Sms (held.csv)" in lines
    assert lines[-1].startswith("exit 6: ")


def test_a_plan_names_no_run_that_there_is_not() -> None:
    """What it would hold can be approved once a run has held it."""
    found = planned(exit=6, reasons=["149 re-grants"], approvable={"grants": 149, "revocations": 0, "clients": 0})
    lines = plan_text.plan(found, "c.toml").splitlines()
    assert lines[1] == "  ! 149 re-grants"
    assert "when a run has held it: consent-sync approve RUN --grants 149" in lines[2]
    assert "nothing was sent" in lines[0]


def test_an_approval_is_shown_with_who_and_why() -> None:
    """In every report while it holds."""
    one = {"run": "0011-x", "what": "grants", "count": 149, "by": "CRM lead", "reason": "spring campaign"}
    assert "149 grants of run 0011-x by CRM lead: spring campaign" in text.summary(summary(approvals=[one]))


@pytest.mark.parametrize(
    ("as_of", "made", "words"),
    [
        ("none", None, 'freshness  not checked ([export] as_of = "none")'),
        ("column:at", None, 'freshness  not known ([export] as_of = "column:at")'),
        ("mtime", NOW - 9000, "2.5 h old"),
        ("mtime", NOW + 60, "0.0 h old"),
    ],
)
def test_the_age_of_an_export_is_said(as_of: str, made: float | None, words: str) -> None:
    """As of when, and how old it was when it was read; or that nobody checked."""
    assert words in text.summary(summary(as_of=as_of, export=export(as_of=made)))
    assert words in plan_text.plan(planned(as_of=as_of, export=export(as_of=made)))


def test_why_nothing_is_granted_stands_among_the_first_lines() -> None:
    """As whoever reads only those must know it."""
    lines = text.summary(summary(restrict_only="it is 72.0 h old, more than max_age_h = 36")).splitlines()
    assert lines[1] == "  grants nothing: it is 72.0 h old, more than max_age_h = 36"


@pytest.mark.parametrize("words", [text.summary, plan_text.plan])
def test_everything_that_an_export_changes_is_told(words: Any) -> None:
    """Grants of both kinds, revocations a channel, lost, unknown, blocked, absent, erased, owed, the matrix, lanes."""
    said = words(
        planned(
            grants=grants(new=11, re=12, lost=13, unknown=14, revocations=NOBODY | {"Push": 15}),
            decided=decided(blocked=16, blocked_channels=NOBODY | {"Email": 16}, absent=17, forgotten=18),
            withdrawals={"open": 19, "parked": 20, "past_limit": 21, "oldest_started": NOW - 86400},
            lanes={"obligation": 22, "revocation": 0, "grant": 23},
            transitions={"Sms": {"allowed": {"denied": 24, "allowed": 0}}, "Email": {"nothing": {"allowed": 0}}},
            export=export(rejects=25, reasons={"Client: blank": 25}, missing_columns=["AllowPush"]),
        )
    )
    for number in (
        *("11 new grants", "12 re-grants", "13 lost consents", "14 unknown ids", "15 Push", "16 Email", "17 clients"),
        *("18 forgotten", "19 clients are owed", "20 parked", "21 past their limit", "the oldest since 2026-"),
        *("45 clients, in this order: 22 obligation, 23 grant", "24 allowed → denied", "25 Client: blank"),
        "column 'AllowPush' is missing",
    ):
        assert number in said, number
    assert "revocation," not in said, "a lane without clients is not named"
    assert len(said.splitlines()) <= 24, "one screen"


def test_a_plan_says_how_long_it_takes() -> None:
    """At least by the rate that is allowed, likely by the one that was learned; neither where nothing is known."""
    both = plan_text.plan(planned(least_seconds=90.0, likely_seconds=9000.0))
    assert "90 s at least, by [delivery] max_rps; about 2.5 h at the rate of the last runs" in both
    assert "about 10 min" in plan_text.plan(planned(likely_seconds=600.0))
    assert "  time " not in plan_text.plan(planned())


def test_a_plan_says_what_it_cannot_know_yet() -> None:
    """Lists that no run has taken in, and a run that died."""
    said = plan_text.plan(planned(lists_waiting=2, recovers=["0011-x"], plan="tonight.plan"))
    for words in ("2 lists in the inbox", "run 0011-x died", "tonight.plan"):
        assert words in said


@pytest.mark.parametrize("code", [one for one in Exit if one not in (Exit.BUG, Exit.BUSY, Exit.STATE)])
def test_every_exit_code_of_a_report_has_words(code: Exit) -> None:
    """The last line says in a word what to do; a run that ends in the others writes no report."""
    last = text.summary(summary(exit=int(code))).splitlines()[-1]
    assert last.startswith(f"exit {int(code)}: ")
    assert "see docs" not in last


def test_clients_are_shown_with_what_they_withdrew() -> None:
    """A dash for nothing; the earliest limit; parked where the platform does not know the client."""
    flags = dict.fromkeys(("AllowSms", "AllowEmail", "AllowPush", "AllowEmailOnlineCheque"))
    one = {"Client": 5, "known": True, **flags, "AllowSms": False, "due": "F---", "withdrawn": ["Sms", "Push"]}
    owed = [{"limit_at": NOW + 86400}, {"limit_at": NOW}]
    known, unknown = text.clients(
        [
            one | {"owed": owed, "parked": True},
            {"Client": 6, "known": False, **flags, "due": "----", "withdrawn": [], "owed": [], "parked": False},
        ]
    ).splitlines()[1:]
    assert f"Sms Push   {text.moment(NOW)}, parked" in known
    assert known.split()[1] == "denied"
    assert unknown.split() == ["6", "-", "-", "-", "-", "not", "known", "-", "-"]
    assert text.clients([]) == "Client  due  withdrawn  owed until"


def test_an_error_is_said_in_the_place_of_what_was_sent() -> None:
    """And the list is taken in all the same."""
    unsent: dict[str, Any] = {"sent": None, "busy": "", "run": None, "reasons_of_run": [], "outcomes": None}
    listed = {"list": "3fa9c0" * 11, "target": "t", "clients": 5, "rejected": 0, "rejects": [], "erased": 0}
    said = withdrawals_text.taken(listed | unsent | {"error": "no such file"})
    assert said.splitlines() == ["list 3fa9c03fa9c0 is taken in for t: 5 clients", "  not sent   no such file"]
    assert withdrawals_text.taken(listed | unsent).endswith("nothing was sent")


def test_nothing_held_is_said_in_words() -> None:
    """An empty table would say nothing."""
    assert plan_text.held([]) == "nothing is held"
