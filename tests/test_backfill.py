"""Backfills: what is sent again, approved, sampled, cancelled, carried on and handed over, against a real stand-in."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sync_job
from sync_job.consent.backfill import Again
from sync_job.consent.lists import scope
from sync_job.errors import ConfigError, Exit
from sync_job.ledger import handover, lock
from sync_job.runs import backfills, drain, forgetting, init, night, planning
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.forked import Forked
from tests.shop import Consent, People, Shop, backfill, changed, expected, holds, people

YES, NO, NOTHING = (True,) * 4, (False,) * 4, (None,) * 4
ALL, DENIALS = Again(grants=True), Again()


def sent(platform: Standin, since: int) -> dict[int, Consent]:
    """Return what was sent of each client since so many requests."""
    return {entry.client: tuple(entry.flags) for entry in platform.platform.log[since:]}


def told_since(platform: Standin, since: int) -> dict[int, Consent]:
    """Return what a platform that forgot everything so many requests ago holds now."""
    held: dict[int, list[bool | None]] = {}
    for entry in platform.platform.log[since:]:
        mine = held.setdefault(entry.client, [None] * 4)
        for place, flag in enumerate(entry.flags):
            mine[place] = mine[place] if flag is None else flag
    return {client: tuple(flags) for client, flags in held.items()}


def open_backfill(shop: Shop) -> dict[str, object] | None:
    """Return the backfill that is open."""
    with shop.state() as state:
        return backfills.open_one(state)


def test_denials_are_sent_again_and_nothing_else(tmp_path: Path, platform: Standin) -> None:
    """Every stated denial, once; whoever is only allowed hears nothing; the mark has ended with the run."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: NO, 3: (True, False, None, None), 4: NOTHING})
    shop.init("equal")
    report = backfill(shop)
    assert report.exit_code is Exit.OK
    assert sent(platform, 0) == {2: NO, 3: (None, False, None, None)}
    assert open_backfill(shop) is None
    before = platform.requests
    assert sync_job.run(shop.settings).exit_code is Exit.OK
    assert platform.requests == before
    assert list((tmp_path / "state" / "backfills").iterdir()) == []


def test_all_restores_a_platform_that_lost_everything(tmp_path: Path, platform: Standin) -> None:
    """Afterwards it holds what the export says; the number of clients that are allowed something was approved."""
    shop = Shop(tmp_path, platform.url)
    everybody = people(300)
    shop.write(everybody)
    shop.init("empty")
    sync_job.run(shop.settings)
    before = len(platform.platform.log)
    some = sum(True in flags for flags in everybody.values())
    for wrong in (None, some - 1, some + 1):
        with pytest.raises(ConfigError, match=f"--approve-grants {some}"):
            backfill(shop, ALL, approved=wrong)
    assert len(platform.platform.log) == before
    assert open_backfill(shop) is None
    assert backfill(shop, ALL, approved=some).exit_code is Exit.OK
    assert told_since(platform, before) == expected(everybody)


def test_no_later_night_holds_what_was_approved(tmp_path: Path, platform: Standin) -> None:
    """The guards would hold so many grants; those of the backfill were approved with it, and a night carries it on."""
    shop = Shop(tmp_path, platform.url, guards="new_grants = 5\nnew_grants_share = 0\nnew_grants_nights = 0")
    everybody = dict.fromkeys(range(1, 101), YES)
    shop.write(everybody)
    shop.init("empty")
    sync_job.run(shop.settings)
    before = len(platform.platform.log)
    report = backfill(shop, ALL, approved=100, limit=30)
    assert report.exit_code is Exit.ATTENTION
    found = open_backfill(shop)
    assert found is not None
    assert found["left"] == 70
    assert sync_job.run(shop.settings).exit_code is Exit.OK
    assert told_since(platform, before) == expected(everybody)
    assert open_backfill(shop) is None


def test_what_changes_is_guarded_as_ever(tmp_path: Path, platform: Standin) -> None:
    """A backfill is no way around the guards: re-grants and revocations of its export are held, the rest is sent."""
    shop = Shop(
        tmp_path, platform.url, guards="re_grants = 2\nre_grants_share = 0\nrevocations = 2\nrevocations_share = 0"
    )
    shop.write({client: YES if client % 2 else NO for client in range(1, 41)})
    shop.init("equal")
    shop.write({client: NO if client % 2 else YES for client in range(1, 31)} | dict.fromkeys(range(31, 41), NO))
    report = backfill(shop, ALL, approved=0)
    assert report.exit_code is Exit.HELD
    assert sent(platform, 0) == dict.fromkeys(range(32, 41, 2), NO)
    assert True not in {flag for flags in holds(platform.platform).values() for flag in flags}


def test_only_some_channels(tmp_path: Path, platform: Standin) -> None:
    """What is due again is of these channels; the other denials go along where something is sent anyway."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: (None, False, False, None), 3: (False, True, None, False)})
    shop.init("equal")
    assert backfill(shop, Again(scope("sms, push"), True), approved=1).exit_code is Exit.OK
    assert sent(platform, 0) == {
        1: (True, None, True, None),
        2: (None, False, False, None),
        3: (False, None, None, False),
    }


def test_whoever_withdrew_is_denied_again_and_never_allowed(tmp_path: Path, platform: Standin) -> None:
    """Also where the export still says allowed, and of a client that the export no longer has."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: YES, 3: YES})
    shop.init("equal")
    shop.withdraw({1: "sms", 3: "all"})
    drain.drain(shop.settings, "drain", Watch())
    shop.write({1: YES, 2: YES})
    before = len(platform.platform.log)
    report = backfill(shop, ALL, approved=2)
    assert report.summary["decided"]["blocked_channels"]["Sms"] == 1
    assert sent(platform, before) == {1: (False, True, True, True), 2: YES, 3: NO}


def test_an_export_that_may_not_grant_sends_no_grant_again(tmp_path: Path, platform: Standin) -> None:
    """A stale file may deny; --all is refused with the reason, and denials go."""
    shop = Shop(tmp_path, platform.url)
    shop.config.write_text(shop.config.read_text().replace('as_of = "none"', 'as_of = "flag"'))
    shop.write({1: YES, 2: NO})
    now = time.time()
    init.init(shop.settings, "equal", lambda grants: grants, Watch(), as_of=now)
    with pytest.raises(ConfigError, match="nothing may be granted by this export"):
        backfill(shop, ALL, approved=1, as_of=now - 40 * 3600)
    report = backfill(shop, as_of=now - 40 * 3600)
    assert report.exit_code is Exit.HELD
    assert sent(platform, 0) == {2: NO}


def test_a_sample_of_every_kind_goes_first(tmp_path: Path, platform: Standin) -> None:
    """N rows of each kind, and no more; a run carries on with the rest."""
    shop = Shop(tmp_path, platform.url)
    everybody = {client: ((True,) * 4, (False,) * 4, (True, False, None, None))[client % 3] for client in range(1, 91)}
    shop.write(everybody)
    shop.init("equal")
    report = backfill(shop, ALL, approved=60, sample=2)
    assert report.exit_code is Exit.ATTENTION
    assert "a sample of 6 rows" in report.summary["reasons"][0]
    told = sent(platform, 0)
    assert sorted(client % 3 for client in told) == [0, 0, 1, 1, 2, 2]
    assert sync_job.run(shop.settings).exit_code is Exit.OK
    assert holds(platform.platform) == expected(everybody)
    assert platform.requests == 90


def test_cancel_takes_back_what_is_neither_acknowledged_nor_in_doubt(tmp_path: Path) -> None:
    """What was due before stays, and so does what may have been applied; nothing more is sent."""
    fate = {1: None, 2: Fault.REFUSE, 3: Fault.RESET_AFTER}

    with running(Options(script=lambda number, client: fate.get(client))) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.config.write_text(shop.config.read_text().replace("attempts = 6", "attempts = 1"))
        everybody = dict.fromkeys(range(1, 11), NO)
        shop.write(everybody)
        shop.init("equal")
        before = shop.settings
        with shop.state() as state:
            untouched = state.holdings()
        backfill(shop, limit=3)
        with pytest.raises(ConfigError, match="is not done"):
            backfill(shop)
        found = backfills.cancel(before)
        assert (found["clients"], found["in_doubt"]) == (10, 1)
        with shop.state() as state:
            after = state.holdings()
            assert after.client.tolist() == untouched.client.tolist()
            assert after.client[after.due != 0].tolist() == [3]
        with pytest.raises(ConfigError, match="No backfill is open"):
            backfills.cancel(before)
        fate.clear()
        told = platform.requests
        sync_job.run(shop.settings)
        assert set(sent(platform, told)) <= {2, 3}
    assert list((tmp_path / "state" / "backfills").iterdir()) == []


def test_plan_of_a_backfill_changes_nothing(tmp_path: Path, platform: Standin) -> None:
    """`--check` counts what the backfill then sends."""
    shop = Shop(tmp_path, platform.url)
    everybody = people(200)
    shop.write(everybody)
    shop.init("equal")
    for again in (DENIALS, ALL, Again(scope("email"), True)):
        with shop.state() as state:
            before = state.holdings().due.tolist()
        found = planning.plan(shop.settings, Watch(), None, Wish(again=again))
        with shop.state() as state:
            assert state.holdings().due.tolist() == before
        since = platform.requests
        report = backfill(shop, again, approved=found["granted"])
        assert report.exit_code is Exit.OK
        assert platform.requests - since == found["requests"]


def test_a_forgotten_client_is_not_in_the_mark(tmp_path: Path, platform: Standin) -> None:
    """It leaves the open backfill as it leaves the rest of the state."""
    shop = Shop(tmp_path, platform.url)
    shop.write(dict.fromkeys(range(1, 11), NO))
    shop.init("equal")
    backfill(shop, limit=2)
    forgetting.forget(shop.settings, forgetting.clients(shop.settings, [9], None), "R", Watch())
    with shop.state() as state:
        one = state.ledger.backfills.open()
        assert one is not None
        assert 9 not in state.mark(one).client
    assert sync_job.run(shop.settings).exit_code is Exit.OK
    assert open_backfill(shop) is None


def test_a_nightly_run_takes_over(tmp_path: Path) -> None:
    """The backfill ends its leg and hands over; the night carries on by tonight's export, denials first."""
    with running(Options(latency_ms=20)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=4)
        everybody = people(900)
        shop.write(everybody)
        shop.init("equal")
        tonight: People = changed(everybody, 0.02)
        begun = Forked("backfill", shop.export, "--config", shop.config, "--json", stdout=subprocess.PIPE)
        while platform.requests < 20 and begun.poll() is None:
            time.sleep(0.01)
        shop.write(tonight)
        settings = shop.settings
        report = backfills.taking_over(settings, lambda: night.run(settings, Wish(), Watch()), Watch())
        out, _ = begun.communicate(timeout=30)
        handed = json.loads(out)
        assert begun.returncode == Exit.ATTENTION
        assert "a nightly run takes over" in " ".join(handed["reasons"])
        assert 0 < handed["outcomes"]["delivered"] < handed["planned"]
        assert report.exit_code is Exit.OK
        assert not handover.is_asked(settings.state.path)
        assert open_backfill(shop) is None
        rows = sum(False in flags for flags in everybody.values()) + 40
        assert platform.requests <= rows + handed["outcomes"]["delivered"]
        for client, flags in holds(platform.platform).items():
            assert all(said is None or tonight[client][place] == said for place, said in enumerate(flags))
        denied_ = {(c, k) for c, flags in tonight.items() for k, flag in enumerate(flags) if flag is False}
        told = {
            (c, k) for c, flags in holds(platform.platform).items() for k, flag in enumerate(flags) if flag is False
        }
        assert denied_ <= told


def test_another_holder_is_not_asked(tmp_path: Path, platform: Standin) -> None:
    """A nightly run does not hand over: a second one is busy."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: NO})
    shop.init("equal")
    settings = shop.settings
    with lock.held(settings.state.path):
        lock.announce(settings.state.path, {"kind": "run", "run": "x", "stage": "sending", "hands_over": False})
        with pytest.raises(sync_job.errors.BusyError):
            backfills.taking_over(settings, lambda: night.run(settings, Wish(), Watch()), Watch())
    assert not handover.is_asked(settings.state.path)


ROWS = int(os.environ.get("CONSENT_SYNC_BACKFILL_ROWS") or 0)
SHORT, RPS, INTERVAL_S = 1000, 400, 0.1


def test_a_backfill_that_was_killed_is_carried_on(tmp_path: Path) -> None:
    """What is sent twice is what was in flight and one commit interval. `make backfill` has two million rows."""
    kills, rows = (10, ROWS) if ROWS else (4, SHORT)
    with running(Options(latency_ms=0 if ROWS else 2, keep_log=False)) as platform:
        more = "" if ROWS else f"max_rps = {RPS}"
        shop = Shop(tmp_path, platform.url, concurrency=8, linger_s=0.1, more=more)
        shop.write({client: (False, client % 2 == 0, False, True) for client in range(1, rows + 1)})
        shop.init("equal")
        command = ["backfill", str(shop.export), "--config", str(shop.config)]
        rng = random.Random(7)
        for kill in range(kills):
            enough = platform.requests + int(rows * rng.uniform(0.2, 0.8) / kills)
            one = Forked(*command)
            while platform.requests < enough and one.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.2))
            one.kill()
            one.wait()
            sys.stderr.write(f"kill {kill + 1} after {platform.requests:,} requests\n")
            command[0] = "run"
        while open_backfill(shop):
            time.sleep(0.1)
            sync_job.run(shop.settings)
        twice = platform.requests - rows
        sys.stderr.write(f"{rows:,} rows, {kills} kills: {platform.requests:,} requests, {twice:,} of them repeats\n")
        assert 0 <= twice <= (rows / 100 if ROWS else kills * (8 + 2 * RPS * INTERVAL_S))
        state = platform.platform.state
        assert len(state) == rows
        held = {client % 2: {(f.sms, f.email) for c, f in state.items() if c % 2 == client % 2} for client in (0, 1)}
        assert held == {0: {(False, None)}, 1: {(False, False)}}
