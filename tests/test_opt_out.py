"""Lists of withdrawals from the command to the platform: at once, beside a run, over several brands, after a death."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sync_job
from sync_job.errors import BusyError, ConfigError, Exit, NoStateError, PausedError
from sync_job.ledger import inbox, lock, pause
from sync_job.runs import drain, intake, withdrawing
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.forked import Forked
from tests.shop import Shop, holds, people

_PATIENCE_S = 60.0
ALL = (True, True, True, True)


def command(*arguments: object) -> Forked:
    """Start the command in a process of its own."""
    return Forked(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def sent(platform: Standin) -> dict[int, list[tuple[bool | None, ...]]]:
    """Return what each client was sent, in order."""
    found: dict[int, list[tuple[bool | None, ...]]] = {}
    for entry in platform.platform.log:
        found.setdefault(entry.client, []).append(tuple(entry.flags))
    return found


def deliver(shop: Shop, digest: str) -> drain.Drained:
    """Deliver what was taken in; the list with *digest* is looked at."""
    report = drain.drain(shop.settings, "opt-out", Watch())
    with shop.state() as state:
        return drain.Drained(shop.settings, report, "", state.ledger.withdrawals.list_state(digest))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Shop, Standin]]:
    """Return a shop of three hundred who allow everything, and its platform."""
    with running(Options()) as platform:
        made = Shop(tmp_path, platform.url)
        made.write(dict.fromkeys(range(1, 301), ALL))
        made.init("equal")
        yield made, platform


def test_a_listed_client_is_denied_what_it_withdrew_and_nothing_else(shop: tuple[Shop, Standin]) -> None:
    """Known or not, once; the obligation ends with the platform's answer, and the next night grants nothing of it."""
    made, platform = shop
    digest = made.withdraw({5: "sms", 6: "marketing", 7: "all", 999: "push"})
    assert made.owed() == {}, "nothing is in the ledger before somebody holds the lock"
    found = deliver(made, digest)
    assert found.exit_code is Exit.OK
    assert found.list_state is not None
    assert (found.list_state["acknowledged"], found.list_state["open"]) == (4, 0)
    assert sent(platform) == {
        5: [(False, None, None, None)],
        6: [(False, False, False, None)],
        7: [(False, False, False, False)],
        999: [(None, None, False, None)],
    }
    before = platform.requests
    report = sync_job.run(made.settings)
    assert platform.requests == before
    assert report.summary["decided"]["blocked"] == 3
    blocked = (report.folder / "blocked.csv").read_text()
    assert blocked.splitlines()[0] == '"Client","channels","granted_at","method","evidence_ref"'
    assert '6,"Sms Email Push","","",""' in blocked


def test_the_same_list_again_sends_nothing(shop: tuple[Shop, Standin]) -> None:
    """A repeat is known by client, channels, time and reference, whatever file it comes in."""
    made, platform = shop
    at = time.time() - 3600
    deliver(made, made.withdraw({5: "sms", 6: "sms"}, received_at=at))
    digest = made.withdraw({6: "sms"}, received_at=at)
    assert drain.drain(made.settings, "opt-out", Watch()) is None, "nothing is owed"
    assert platform.requests == 2
    with made.state() as state:
        found = state.ledger.withdrawals.list_state(digest)
        assert found is not None
        assert (found["fresh"], found["repeats"]) == (0, 1)
        kinds = [run.kind for run in state.ledger.runs()]
    assert kinds == ["init", "opt-out"], "a drain with nothing to do leaves no trace"


def test_a_drain_that_has_nothing_to_do_makes_no_request(shop: tuple[Shop, Standin]) -> None:
    """And no run in the history, and no report."""
    made, platform = shop
    (done,) = drain.drain_all([made.settings], 0, Watch())
    assert (done.report, done.exit_code, platform.requests) == (None, Exit.OK, 0)


def test_an_unknown_client_is_parked_and_does_not_alarm(tmp_path: Path) -> None:
    """The platform does not know it: tried again on day 1, 7 and 30, counted apart, closed by a person."""
    with running(Options(unknown_every=7)) as platform:
        made = Shop(tmp_path, platform.url)
        made.write({1: ALL})
        made.init("equal")
        done = deliver(made, made.withdraw({7: "sms", 1: "sms"}, received_at=time.time() - 200 * 3600))
        assert done.list_state is not None
        assert (done.list_state["parked"], done.list_state["acknowledged"]) == (1, 1)
        assert done.exit_code is Exit.ATTENTION
        status = withdrawing.status(made.settings)
        assert (status["open"], status["parked"], status["past_limit"]) == (0, 1, 0)
        assert drain.drain(made.settings, "drain", Watch()) is None
        assert platform.requests == 2
        assert withdrawing.close(made.settings, 7, reason="no such member", by="the officer")["closed"] == 1
        assert withdrawing.status(made.settings)["parked"] == 0
        with pytest.raises(ConfigError, match="Nothing is owed to client 7"):
            withdrawing.close(made.settings, 7, reason="again", by="the officer")
        found = withdrawing.report(made.settings, 0, time.time() + 1)
        assert (found["acknowledged"], found["late"], found["ended_otherwise"]) == (1, 1, {"by hand": 1})


def test_an_obligation_past_its_limit_ends_every_run_in_7(tmp_path: Path) -> None:
    """Refused for another reason it is tried daily, never dropped, and an alarm once its limit has passed."""
    with running(Options(script=lambda number, client: Fault.REFUSE if client == 5 else None)) as platform:
        made = Shop(tmp_path, platform.url)
        made.write({5: ALL, 6: ALL})
        made.init("equal")
        done = deliver(made, made.withdraw({5: "sms"}, received_at=time.time() - 3600))
        assert done.exit_code is Exit.ATTENTION
        made.withdraw({5: "email"}, received_at=time.time() - 49 * 3600)
        report = sync_job.run(made.settings)
        assert report.exit_code is Exit.OBLIGATION
        assert any("past its limit" in reason for reason in report.summary["reasons"])
        assert platform.requests == 2, "a new list is sent at once; what was refused in this run waits for tomorrow"
        assert sync_job.run(made.settings).exit_code is Exit.OBLIGATION
        assert platform.requests == 2
        assert made.owed() == {5: 0b0101}


def test_a_list_is_refused_whole_or_taken_in_whole(tmp_path: Path) -> None:
    """Two brands, one of them without state: nothing is taken in anywhere."""
    with running(Options()) as platform:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        one, other = (Shop(tmp_path / name, platform.url) for name in ("one", "other"))
        one.write({1: ALL})
        one.init("equal")
        listing = one.listing({1: "all"})
        with pytest.raises(NoStateError):
            intake.take_in([one.settings, other.settings], lambda _: listing, lambda count, _: count, Watch())
        assert inbox.waiting(one.settings.state.path) == []


def test_several_brands_are_durable_before_the_first_request(tmp_path: Path, cli: Cli) -> None:
    """A folder of configurations is a host with several brands; each of them gets the list."""
    with running(Options()) as platform:
        (tmp_path / "configs").mkdir()
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            made = Shop(tmp_path / name, platform.url)
            made.write({1: ALL, 2: ALL})
            made.init("equal")
            state = f"[state]\npath = '../{name}/state'\nkeys = '../{name}/keys'\n"
            text = f"{made.config.read_text()}{state}[report]\npath = '../{name}/reports'\n"
            (tmp_path / "configs" / f"{name}.toml").write_text(text)
        (tmp_path / "list.csv").write_text("1\n")
        said = cli(
            "opt-out", tmp_path / "list.csv", "--received-at", "2026-11-01", "-c", tmp_path / "configs", "--json"
        )
        assert said.code == Exit.OK, said
        found = json.loads(said.out)
        assert [one["sent"]["acknowledged"] for one in found["targets"]] == [1, 1]
        assert platform.requests == 2


def test_a_large_list_is_taken_in_only_by_its_number(tmp_path: Path, cli: Cli) -> None:
    """Off a terminal without --expect nothing is taken in (exit 2), nor with another number."""
    with running(Options()) as platform:
        made = Shop(tmp_path, platform.url, guards="list = 10")
        made.write({1: ALL})
        made.init("equal")
        (tmp_path / "list.csv").write_text("".join(f"{client}\n" for client in range(1, 13)))
        arguments = ("opt-out", tmp_path / "list.csv", "--received-at", "2026-11-24", "-c", made.config)
        for expect in ([], ["--expect", "11"]):
            said = cli(*arguments, *expect)
            assert said.code == Exit.CONFIG
            assert "say --expect 12" in said.err
            assert inbox.waiting(made.settings.state.path) == []
        assert cli(*arguments, "--expect", "12", "--no-send").code == Exit.OBLIGATION, "it waits, past its limit"
        assert len(inbox.waiting(made.settings.state.path)) == 1
        assert platform.requests == 0


def test_an_opt_out_gets_through_while_a_long_run_holds_the_lock(tmp_path: Path) -> None:
    """The run ends its leg, denies who withdrew first, and goes on; no older decision is sent after it."""
    with running(Options(workers=2, service_ms=20)) as platform:
        made = Shop(tmp_path, platform.url, concurrency=2)
        made.write(dict.fromkeys(range(1, 1001), ALL))
        made.init("empty")
        run = command("run", "--config", made.config, "--json")
        deadline = time.monotonic() + _PATIENCE_S
        while platform.requests < 60 and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "list.csv").write_text("990\n991\n")
        began = time.monotonic()
        opt_out = command("opt-out", tmp_path / "list.csv", "--received-at", "2026-11-24", "-c", made.config, "--json")
        out, err = opt_out.communicate(timeout=_PATIENCE_S)
        took = time.monotonic() - began
        assert opt_out.returncode == 0, out + err
        found = json.loads(out)
        assert found["sent"]["acknowledged"] == 2
        assert found["run"] is None, "the run that held the lock sent it"
        at = {entry.client: place for place, entry in enumerate(platform.platform.log)}
        assert at[990] < 700, f"not after everything else; it took {took:.1f} s"
        platform.capacity(workers=0)  # the rest need not take its time
        out, err = run.communicate(timeout=_PATIENCE_S)
        assert run.returncode == 0, err
        summary = json.loads(out)
        assert len(summary["legs"]) >= 2
        assert summary["planned"] == summary["outcomes"]["delivered"] == 1000, "each client counts by its last leg"
        assert sent(platform)[990] == [(False, False, False, False)]
        assert {flags for client, flags in holds(platform.platform).items() if client < 990} == {ALL}
        assert sync_job.run(made.settings).summary["planned"] == 0


def test_a_client_that_is_being_granted_ends_denied(tmp_path: Path) -> None:
    """A withdrawal that comes in after the grant was sent in the same run is sent after it."""
    with running(Options(workers=2, service_ms=20)) as platform:
        made = Shop(tmp_path, platform.url, concurrency=2)
        made.write(dict.fromkeys(range(1, 1001), ALL))
        made.init("empty")
        run = command("run", "--config", made.config, "--json")
        deadline = time.monotonic() + _PATIENCE_S
        while platform.requests < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        early = platform.platform.log[0].client
        made.withdraw({early: "all"})
        while len(sent(platform)[early]) < 2 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        platform.capacity(workers=0)  # the rest need not take its time
        out, err = run.communicate(timeout=_PATIENCE_S)
        assert run.returncode in (0, 1), out + err
        assert sent(platform)[early] == [ALL, (False, False, False, False)]
        assert json.loads(out)["outcomes"]["delivered"] == 1000


def test_a_waiter_becomes_the_holder_when_the_run_dies(tmp_path: Path) -> None:
    """The run is killed while the opt-out waits for it; the opt-out finishes what it left, and sends its list."""
    with running(Options(latency_ms=30)) as platform:
        made = Shop(tmp_path, platform.url, concurrency=2)
        made.write(dict.fromkeys(range(1, 3001), ALL))
        made.init("empty")
        run = command("run", "--config", made.config)
        deadline = time.monotonic() + _PATIENCE_S
        while platform.requests < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "list.csv").write_text("2990\n")
        waiter = command("opt-out", tmp_path / "list.csv", "--received-at", "2026-11-24", "-c", made.config, "--json")
        while not inbox.waiting(made.settings.state.path) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
        out, err = waiter.communicate(timeout=_PATIENCE_S)
        assert waiter.returncode == 0, out + err
        assert json.loads(out)["run"] is not None
        assert sent(platform)[2990] == [(False, False, False, False)]


def test_nothing_is_sent_while_paused_and_a_list_is_taken_in_all_the_same(shop: tuple[Shop, Standin]) -> None:
    """Exit 75 says who paused it and why; after resuming the list goes out."""
    made, platform = shop
    pause.pause(made.settings.state.path, reason="migration", by="operations", now=time.time())
    with pytest.raises(PausedError, match=r"paused by operations .*: migration"):
        sync_job.run(made.settings)
    listing = made.listing({5: "sms"})
    taken = intake.take_in([made.settings], lambda _: listing, lambda count, _: count, Watch())
    (done,) = drain.deliver(taken, 0, Watch())
    assert done.exit_code is Exit.BUSY
    assert len(inbox.waiting(made.settings.state.path)) == 1
    assert pause.resume(made.settings.state.path) is not None
    (done,) = drain.deliver(taken, 0, Watch())
    assert (done.exit_code, platform.requests) == (Exit.OK, 1)


def test_a_busy_target_is_waited_for_and_then_left_to_its_holder(shop: tuple[Shop, Standin]) -> None:
    """After --wait-s it ends in 75: the list is taken in, and whoever holds the lock sends it."""
    made, _ = shop
    listing = made.listing({5: "sms"})
    naps: list[float] = []
    with lock.held(made.settings.state.path):
        taken = intake.take_in([made.settings], lambda _: listing, lambda count, _: count, Watch())
        (done,) = drain.deliver(taken, 0, Watch(), sleep=naps.append)
        assert done.exit_code is Exit.BUSY
        with pytest.raises(BusyError):
            sync_job.run(made.settings)
    (done,) = drain.deliver(taken, 0, Watch(), sleep=naps.append)
    assert done.exit_code is Exit.OK
    assert naps == []


def test_a_void_list_binds_no_more_and_what_follows_is_guarded(tmp_path: Path) -> None:
    """A wrong list of fifty taken in: void by two people; the export's allowed are re-grants, held until approved."""
    with running(Options()) as platform:
        made = Shop(tmp_path, platform.url, guards="")
        made.write(dict.fromkeys(range(1, 301), ALL))
        made.init("equal")
        digest = made.withdraw(dict.fromkeys(range(1, 51), "all"))
        deliver(made, digest)
        with pytest.raises(ConfigError, match="two people"):
            withdrawing.void(made.settings, digest[:8], reason="wrong file", by="A", approved_by="a")
        found = withdrawing.void(made.settings, digest[:8], reason="wrong file", by="A", approved_by="B")
        assert found == {"withdrawals": 50, "obligations": 0, "kept": 0, "since": None}
        report = sync_job.run(made.settings)
        assert report.exit_code is Exit.HELD
        assert report.summary["guards"][0]["guard"] == "re-grants"
        assert platform.requests == 50
        assert report.summary["approvable"] == {"grants": 50, "revocations": 0, "clients": 0}


def test_everybody_ends_as_the_lists_and_the_export_say(tmp_path: Path) -> None:
    """Random lists over random exports on a platform with faults: denied what was withdrawn, the rest as stated."""
    faults = {Fault.RESET_AFTER: 0.03, Fault.ERROR_AFTER: 0.03, Fault.STALL: 0.01}
    with running(Options(rates=faults, seed=3, latency_ms=1)) as platform:
        made = Shop(tmp_path, platform.url, timeout_s=0.5, linger_s=0.3)
        first = people(200)
        made.write(first)
        made.init()
        withdrawn: dict[int, int] = {}
        for night in range(4):
            listed = {client: ("sms", "marketing", "all")[client % 3] for client in range(1000 + night, 1200, 17)}
            made.withdraw(listed, received_at=time.time() - 3600 + night)
            withdrawn |= {client: max(withdrawn.get(client, 0), client % 3) for client in listed}
            sync_job.run(made.settings)
            time.sleep(0.35)
        for _ in range(6):
            if not sync_job.run(made.settings).summary["planned"]:
                break
            time.sleep(0.35)
        assert made.owed() == {}
        held = holds(platform.platform)
        for client, flags in first.items():
            covered = (0, 1, 3, 4)[withdrawn[client] + 1] if client in withdrawn else 0
            for place in range(4):
                if place < covered:
                    assert held[client][place] is False
                elif flags[place] is not None:
                    assert held[client][place] is flags[place]


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&-", "2> >(exec true)"])
def test_no_log_keeps_an_opt_out_from_being_sent(tmp_path: Path, stream: str) -> None:
    """A full disk under the log, none at all, or a reader that has gone: it is sent, and the exit code is the run's."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(5))
        shop.init("equal")
        shop.withdraw({1001: "all"})
        command = f'"{sys.executable}" -m sync_job --log-format json drain --config "{shop.config}" {stream}'
        ended = subprocess.run(["/bin/bash", "-c", command], check=False, timeout=120)
        assert ended.returncode == 0
        assert shop.owed() == {}
