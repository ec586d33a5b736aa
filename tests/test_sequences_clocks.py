"""A clock that was wrong for a night, or jumps: nothing waits for a time from the future; it is told and repaired."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from sync_job.ledger import clocks, pause
from sync_job.standin.background import Standin
from sync_job.standin.faults import Fault
from tests.commands import Cli
from tests.nightly import DAY_S, Clock, Nightly
from tests.scripted import Script
from tests.shop import NO_GUARDS, holds

YES, NO = (True,) * 4, (False,) * 4
AHEAD_S = 400 * DAY_S


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of the commands."""
    return Clock(monkeypatch)


@pytest.fixture
def shop(tmp_path: Path, platform: Standin, cli: Cli, clock: Clock) -> Nightly:
    """Return a shop with three members who allow everything, as the platform knows."""
    shop = Nightly(tmp_path / "shop", platform.url, cli, guards=NO_GUARDS, delivery="linger_s = 5\nattempts = 1")
    shop.write(dict.fromkeys((1, 2, 3), YES))
    assert shop.run("init", shop.export, "--platform", "equal", "--no-withdrawals").code == 0
    return shop


def _future(shop: Nightly) -> dict[str, int]:
    found: dict[str, int] = shop.told("state", "check")["from_the_future"]
    return found


def test_a_refused_row_is_tried_again_at_its_next_real_step(
    shop: Nightly, platform: Standin, clock: Clock, script: Script
) -> None:
    """Refused while the clock was 400 days ahead (C03): the next drain sends it."""
    clock.ahead_s = AHEAD_S
    script.faults = {1: Fault.REFUSE}
    assert shop.opt_out(1).code == 1
    clock.ahead_s = 0
    script.faults = {}
    assert "waiting.since" in _future(shop)
    assert shop.run("drain").code == 0
    assert holds(platform.platform)[1] == NO


def test_a_row_that_is_refused_again_waits_from_now(
    shop: Nightly, platform: Standin, clock: Clock, script: Script
) -> None:
    """It is tried once at once, then a day later, as any."""
    clock.ahead_s = AHEAD_S
    script.faults = {1: Fault.REFUSE}
    assert shop.opt_out(1).code == 1
    clock.ahead_s = 0
    shop.run("drain")
    tried = platform.requests
    shop.run("drain")
    assert platform.requests == tried
    clock.ahead_s = DAY_S
    shop.run("drain")
    assert platform.requests == tried + 1


def test_what_is_owed_is_past_its_limit_by_the_real_clock(shop: Nightly, clock: Clock, script: Script) -> None:
    """A list that was taken in while the clock was ahead is an alarm days later, and not 400 days later."""
    script.faults = {1: Fault.ERROR_BEFORE}
    clock.ahead_s = AHEAD_S
    shop.opt_out(1)
    clock.ahead_s = 0
    assert shop.run("drain").code != 7
    assert "obligations.started" not in _future(shop)
    clock.ahead_s = 10 * DAY_S
    assert shop.run("drain").code == 7


def test_nobody_lingers_for_a_year(shop: Nightly, platform: Standin, clock: Clock, script: Script) -> None:
    """An attempt in doubt while the clock was ahead: the denial is sent once more after the real linger."""
    clock.ahead_s = AHEAD_S
    script.faults = {1: Fault.RESET_AFTER}
    shop.opt_out(1)
    script.faults = {}
    shop.run("drain")
    clock.ahead_s = 0
    assert "lingering.until" in _future(shop)
    shop.run("drain")
    assert "lingering.until" not in _future(shop)
    before = platform.requests
    clock.ahead_s = 10
    assert shop.run("drain").code == 0
    assert platform.requests == before + 1
    assert shop.told("withdrawals", "status")["open"] == 0


def test_everyone_lingers_for_the_real_time_after_a_restore(shop: Nightly, clock: Clock) -> None:
    """A backup that was put back while the clock was ahead: everyone lingers for `linger_s` from now."""
    assert shop.run("state", "backup", shop.folder / "b.tar").code == 0
    (shop.folder / "state").rename(shop.folder / "lost")
    clock.ahead_s = AHEAD_S
    assert shop.run("state", "restore", shop.folder / "b.tar").code == 0
    assert shop.run("state", "restored", "--none", "--by", "me").code == 0
    clock.ahead_s = 0
    assert "about.lingering_until" in _future(shop)
    shop.run("drain")
    assert "about.lingering_until" not in _future(shop)


def _repaired(shop: Nightly) -> dict[str, int]:
    found = shop.told("state", "repair")
    assert found["exit"] == 0, found
    times: dict[str, int] = found["brought_to_now"]
    assert _future(shop) == {}
    return times


def test_what_a_wrong_clock_left_is_told_and_repaired(shop: Nightly, clock: Clock, script: Script) -> None:
    """`state check` has each kind with its count, `doctor` warns, `state repair` brings them to now and says so."""
    assert _future(shop) == {}
    clock.ahead_s = AHEAD_S
    script.faults = {1: Fault.REFUSE}
    shop.opt_out(1)
    shop.write({1: YES, 2: NO, 3: YES})
    shop.run("run")
    shop.run("forget", "--client", "3")
    shop.run("pause", "--reason", "r", "--by", "me")
    assert shop.run("state", "backup", shop.folder / "b.tar").code == 0
    clock.ahead_s = 0
    said = shop.run("state", "check")
    assert said.code == 1
    assert "future" in said.out
    assert "state repair" in said.out
    found = _future(shop)
    assert {"runs.started", "lists.taken_in", "keys.anchor", "keys.backup", "state.paused"} <= set(found)
    assert "in the future" in shop.run("doctor", "--offline").out
    assert _repaired(shop) == found
    assert shop.run("state", "check").code == 0
    paused = pause.paused(shop.folder / "state")
    assert paused is not None
    assert paused["reason"] == "r"
    assert _repaired(shop) == {}


def test_a_clock_ahead_for_one_night_stops_no_later_night(shop: Nightly, platform: Standin, clock: Clock) -> None:
    """One night 400 days ahead (C02), then `state repair`: the night after grants what a fresh export allows."""
    clock.ahead_s = AHEAD_S
    shop.write({1: YES, 2: NO, 3: YES})
    assert shop.run("run").code == 0
    clock.ahead_s = DAY_S
    _repaired(shop)
    clock.ahead_s = 2 * DAY_S
    shop.write({1: YES, 2: YES, 3: YES})
    said = shop.run("run")
    assert said.code == 0, said
    assert holds(platform.platform)[2] == YES


def test_without_a_repair_too(shop: Nightly, platform: Standin, clock: Clock) -> None:
    """The second night after one 400 days ahead is like any: an as-of counts as no later than the next run."""
    clock.ahead_s = AHEAD_S
    shop.write({1: YES, 2: NO, 3: YES})
    assert shop.run("run").code == 0
    for night in (1, 2, 3):
        clock.ahead_s = night * DAY_S
        shop.write({1: YES, 2: YES, 3: YES})
        shop.run("run")
    assert holds(platform.platform)[2] == YES


def test_a_clock_that_is_behind_grants_nothing_and_changes_no_time(
    shop: Nightly, platform: Standin, clock: Clock
) -> None:
    """The times of the state are right then: they stay, and an export from before the last one still grants nothing."""
    clock.ahead_s = 3 * DAY_S
    shop.write({1: YES, 2: NO, 3: YES})
    assert shop.run("run").code == 0
    clock.ahead_s = 0
    shop.write({1: YES, 2: YES, 3: YES}, age_s=3600)
    shop.run("run")
    clock.ahead_s = 3 * DAY_S + 3600
    os.utime(shop.export, (clock.now() - DAY_S, clock.now() - DAY_S))
    shop.run("run")
    assert holds(platform.platform)[2] == NO


@pytest.mark.parametrize("jump_s", [-3 * DAY_S, 3600.0, AHEAD_S])
def test_a_clock_that_jumps_during_a_run_loses_nothing(
    shop: Nightly, platform: Standin, clock: Clock, script: Script, jump_s: float
) -> None:
    """Back by days, an hour as a wrong summer time, a year ahead: all is delivered, and the next night goes on."""
    shop.write({client: YES if client % 3 else NO for client in range(1, 60)})

    def happens(number: int) -> None:
        if number == 20:
            clock.ahead_s = jump_s

    script.happens = happens
    shop.run("run")
    script.happens = lambda number: None
    clock.ahead_s = 0
    assert shop.opt_out(1).code == 0
    shop.run("drain")
    assert holds(platform.platform)[1] == NO
    clock.ahead_s = DAY_S
    shop.write(dict.fromkeys(range(1, 60), NO))
    assert shop.run("run").code == 0
    assert holds(platform.platform) == dict.fromkeys(range(1, 60), NO)


def test_a_time_of_consent_from_the_future_is_none(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """No an hour ago and yes in 2062 (F06): denied; `check` and the run's report count such rows."""
    shop = Nightly(tmp_path / "other", platform.url, cli, guards=NO_GUARDS)
    text = shop.config.read_text().replace("[export.columns]", '[export.columns]\nconsent_changed_at = "at"')
    shop.config.write_text(text)
    recent = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    older = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7200))
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
    head = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque,at\n"
    yes, no = "true,true,true,true", "false,false,false,false"
    rows = [(1, no, recent), (1, yes, "2062-03-04"), (2, no, older), (2, yes, recent), (3, no, recent), (3, yes, soon)]
    shop.export.write_text(head + "".join(f"{client},{flags},{at}\n" for client, flags, at in rows))
    checked = shop.told("check", shop.export)
    assert checked["from_the_future"] == 1
    assert any("in the future" in said for said in checked["warnings"])
    init = ("init", shop.export, "--platform", "empty", "--no-withdrawals", "--approve-grants", "2")
    assert shop.run(*init).code == 0
    found = shop.told("run")
    assert found["export"]["from_the_future"] == 1
    assert holds(platform.platform) == {1: NO, 2: YES, 3: YES}


def test_a_list_from_the_future_is_refused_row_by_row(shop: Nightly) -> None:
    """`received_at` in the future is no receipt: its rows are listed, and the others are taken in."""
    path = shop.folder / "list.csv"
    path.write_text("Client,received_at\n1,2062-01-01\n2,2026-01-01\n")
    found = shop.told("opt-out", path, "--scope", "all")
    assert (found["rejected"], found["clients"]) == (1, 1)
    assert "in the future" in " ".join(found["reasons"])


def test_evidence_taken_in_while_the_clock_was_ahead_lifts_no_later_opt_out(
    shop: Nightly, platform: Standin, clock: Clock
) -> None:
    """Its time is no time that came after a withdrawal of today, before a repair and after it."""
    assert shop.opt_out(1, request_ref="R1").code == 0
    clock.ahead_s = AHEAD_S
    evidence = shop.folder / "evidence.csv"
    granted = time.strftime("%Y-%m-%d", time.gmtime(clock.now() - DAY_S))
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n1,all,{granted},paper,E1\n")
    assert shop.run("reconsent", evidence).code == 0
    clock.ahead_s = 0
    assert shop.opt_out(1, request_ref="R2").code == 0
    assert shop.told("withdrawals", "status")["lists"][0]["fresh"] == 1
    _repaired(shop)
    clock.ahead_s = 3600
    assert shop.opt_out(1, request_ref="R3").code == 0
    assert shop.told("withdrawals", "status")["lists"][0]["fresh"] == 1


def test_who_withdrew_while_the_clock_was_ahead_may_consent_again(shop: Nightly, clock: Clock) -> None:
    """After a repair the withdrawal counts as of then: evidence of two days later lifts it."""
    clock.ahead_s = AHEAD_S
    assert shop.opt_out(1).code == 0
    clock.ahead_s = 0
    _repaired(shop)
    clock.ahead_s = 3 * DAY_S
    granted = time.strftime("%Y-%m-%d", time.gmtime(clock.now() - DAY_S / 2))
    evidence = shop.folder / "evidence.csv"
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n1,all,{granted},paper,E1\n")
    assert shop.told("reconsent", evidence)["lifted"] == 1


@pytest.mark.parametrize("sent", [True, False], ids=["sent", "while paused"])
def test_an_erasure_while_the_clock_was_ahead_outdoes_no_later_opt_out(
    shop: Nightly, platform: Standin, clock: Clock, sent: bool
) -> None:
    """Its time is no time before which an opt-out of today came: taken in and denied, and owed in the inbox."""
    clock.ahead_s = AHEAD_S
    assert shop.run("forget", "--client", "2").code == 0
    clock.ahead_s = 0
    assert platform.platform.state.pop(2) == NO  # whom the platform has anew, as somebody who allows everything
    if not sent:
        shop.run("pause", "--reason", "r", "--by", "me")
    said = shop.opt_out(2, 1)
    assert (said.code, "erased since" in said.out) == (0 if sent else 75, False), said
    if not sent:
        assert shop.told("withdrawals", "status")["clients_waiting"] == 2
        shop.run("resume")
        assert shop.run("drain").code == 0
    assert holds(platform.platform) == {1: NO, 2: NO}
    assert shop.told("withdrawals", "status")["lists"][0]["fresh"] == 2


def test_after_a_repair_an_erasure_counts_as_of_then(shop: Nightly, platform: Standin, clock: Clock) -> None:
    """What was received before is not taken in, what comes later is; and by the wrong clock it counts as it was."""
    clock.ahead_s = AHEAD_S
    assert shop.run("forget", "--client", "2").code == 0
    assert "1 row names a person who was erased since" in shop.opt_out(2).out
    clock.ahead_s = 0
    assert _repaired(shop)["keys.tombstones"] == 1
    assert "1 row names a person who was erased since" in shop.opt_out(2).out
    clock.ahead_s = 3600
    assert "erased since" not in shop.opt_out(2).out
    assert shop.told("withdrawals", "status")["lists"][0]["fresh"] == 1


def test_a_backup_with_an_opt_out_after_an_erasure_from_the_future_keeps_it(
    shop: Nightly, platform: Standin, clock: Clock, script: Script
) -> None:
    """The backup is put back before anybody repaired the times: the opt-out stays, and is owed."""
    clock.ahead_s = AHEAD_S
    assert shop.run("forget", "--client", "2").code == 0
    clock.ahead_s = 0
    script.faults = {2: Fault.REFUSE}
    assert shop.opt_out(2).code == 1
    backup = shop.folder / "b.tar"
    assert shop.run("state", "backup", backup).code == 0
    (shop.folder / "state").rename(shop.folder / "lost")
    assert shop.run("state", "restore", backup).code == 0
    script.faults = {}
    shop.run("drain")
    found = shop.told("withdrawals", "report", "--from", "2020-01-01")
    assert (found["received"], found["acknowledged"] + found["open"]) == (1, 1)


def test_evidence_from_before_an_erasure_from_the_future_lifts_nothing(shop: Nightly, clock: Clock) -> None:
    """In doubt nobody is granted anything."""
    clock.ahead_s = AHEAD_S
    assert shop.run("forget", "--client", "2").code == 0
    clock.ahead_s = 0
    assert shop.opt_out(2).code == 0
    granted = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 5))
    evidence = shop.folder / "evidence.csv"
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n2,all,{granted},paper,E1\n")
    found = shop.told("reconsent", evidence)
    assert (found["lifted"], found["erased"]) == (0, 1)


def test_every_time_of_the_ledger_is_looked_at(shop: Nightly) -> None:
    """A new column with a time has to be told, repaired, or left for a reason."""
    with closing(sqlite3.connect(shop.folder / "state" / "ledger.db")) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        times = {
            (name, column[1])
            for name in names
            for column in db.execute(f"PRAGMA table_info({name})")
            if column[2] == "REAL"
        }
    known = {(name, column) for part in (clocks.COLUMNS, clocks.LEFT) for name in part for column in part[name]}
    assert times == known
