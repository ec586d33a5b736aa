"""What is dispatched is held against what is known at that moment: lists that come in at any time, and exports' age."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sync_job.errors import Exit
from sync_job.ledger import inbox, lock
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from sync_job.standin.platform import Entry
from tests.commands import Cli
from tests.forked import Forked
from tests.shop import NO_GUARDS, Shop

_CONFIG = Path(__file__).parent.parent / "configs" / "nightly.toml"
_PATIENCE_S = 60.0
_SOON_S = 5.0  # generous: two seconds are promised, and machines are shared
_IN_FLIGHT_S = 0.5  # what was on its way when a list became durable
RECEIVED = ("--received-at", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
ALL = (True, True, True, True)
NONE = (False, False, False, False)


class Night(Shop):
    """A target with the shipped nightly configuration, whose guards let these small shops' changes through."""

    def __init__(self, folder: Path, url: str, *, delivery: str = "", export: str = "") -> None:
        super().__init__(folder, url)
        text = _CONFIG.read_text("utf-8")
        for was, becomes in (
            ("https://loyalty.example.com/partner", url),
            ("/var/spool/crm/consent/latest.csv", "export.csv"),
            ("/var/lib/consent-sync/loyalty/", ""),
            ('kind = "bearer"', 'kind = "none"'),
            ('as_of = "mtime"', f'as_of = "mtime"\n{export}'),
        ):
            assert was in text
            text = text.replace(was, becomes)
        self.config.write_text(f"{text}\n[delivery]\nlinger_s = 1\n{delivery}\n[guards]\n{NO_GUARDS}\n")

    def start(self, *arguments: object, stdin: int = subprocess.DEVNULL) -> Forked:
        """Start a command in a process of its own."""
        given = (*arguments, "--config", self.config)
        return Forked(*given, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def listed(self, clients: Iterable[int]) -> Path:
        """Return a list of clients that withdraw everything."""
        path = self.folder / "list.csv"
        path.write_text("".join(f"{client}\n" for client in clients))
        return path

    def opt_out(self, cli: Cli, clients: Iterable[int], *options: str) -> dict[str, object]:
        """Give a list to `opt-out` in this process, and return what it says."""
        said = cli(
            *("opt-out", self.listed(clients), *RECEIVED, "--scope", "all", "--json"),
            *("--config", self.config, *options),
        )
        assert said.code == Exit.OK, said
        found: dict[str, object] = json.loads(said.out)
        return found

    def stage(self) -> object:
        """Return what the run that is under way says of itself."""
        return lock.running(self.settings.state.path).get("stage")


def until(holds: Callable[[], object], process: Forked | None = None) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.005)


def log(platform: Standin, clients: Iterable[int]) -> list[Entry]:
    """Return the requests for some clients."""
    wanted = set(clients)
    return [entry for entry in list(platform.platform.log) if entry.client in wanted]


def allows(entry: Entry) -> bool:
    """Return whether a request allows something."""
    return any(flag is True for flag in entry.flags)


@pytest.mark.parametrize("beyond_s", [0.3, 2.0])
def test_nobody_on_a_list_is_allowed_anything_from_the_moment_that_it_is_taken_in(
    tmp_path: Path, cli: Cli, beyond_s: float
) -> None:
    """A young leg is no excuse: 100 people next in line get their denial at once, while a minute is left to send."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url, delivery="max_rps = 50")
        made.write(dict.fromkeys(range(1, 3001), ALL))
        made.init()
        run = made.start("run", "--json")
        until(lambda: platform.requests > 50 * beyond_s, run)
        first = platform.requests + 5
        who = range(first, first + 100)
        made.opt_out(cli, who, "--no-send")
        durable = time.monotonic()
        until(lambda: any(not allows(entry) for entry in log(platform, who)), run)
        took = time.monotonic() - durable
        assert took < _SOON_S
        until(lambda: sum(not allows(entry) for entry in log(platform, who)) >= 100, run)
        late = [one for one in log(platform, who) if allows(one) and one.at_s > durable + _IN_FLIGHT_S]
        assert late == []
        assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=_PATIENCE_S)
        assert run.returncode == Exit.TERMINATED, err
        assert made.owed() == {}
        assert {platform.platform.state[client] for client in who} == {NONE}
        assert len(json.loads(out)["legs"]) >= 2


def test_an_opt_out_that_waits_ends_as_soon_as_its_denial_is_acknowledged(tmp_path: Path) -> None:
    """The command ends in 0 while the run goes on, which has sent nothing older in between."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url, delivery="max_rps = 50")
        made.write(dict.fromkeys(range(1, 3001), ALL))
        made.init()
        run = made.start("run")
        until(lambda: platform.requests > 20, run)
        who = 2500
        path = made.listed([who])
        opt_out = made.start("opt-out", path, *RECEIVED, "--scope", "all", "--json")
        out, err = opt_out.communicate(timeout=_PATIENCE_S)
        assert opt_out.returncode == Exit.OK, out + err
        assert json.loads(out)["sent"]["acknowledged"] == 1
        assert run.poll() is None
        assert [tuple(entry.flags) for entry in log(platform, [who])] == [NONE]
        run.kill()
        run.wait()


def test_a_hanging_request_of_another_client_does_not_delay_a_denial(tmp_path: Path, cli: Cli) -> None:
    """It goes out beside it; killed at that moment, both legs are folded as they ended, one after the other."""
    arrived: list[int] = []

    def script(number: int, client: int) -> Fault | None:
        arrived.append(client)
        return Fault.STALL if client == 7 else None

    with running(Options(script=script)) as platform:
        made = Night(tmp_path, platform.url, delivery="timeout_s = 45\nmax_concurrency = 2\nmax_rps = 50")
        made.write(dict.fromkeys(range(1, 3001), ALL))
        made.init()
        run = made.start("run")
        until(lambda: 7 in arrived, run)
        until(lambda: platform.requests > 40, run)
        before = platform.platform.log[0].client
        made.opt_out(cli, [before, 2990], "--no-send")
        durable = time.monotonic()
        until(lambda: len([one for one in log(platform, [before, 2990]) if not allows(one)]) == 2, run)
        assert time.monotonic() - durable < _SOON_S
        until(lambda: len(list((made.settings.state.path / "runs").glob("*/*/plan.parquet"))) == 2, run)
        time.sleep(0.3)  # its outcome is durable within a tenth of a second
        run.kill()
        run.wait()
        said = cli("drain", "--config", made.config)
        assert said.code in (Exit.OK, Exit.ATTENTION), said
        assert made.owed() == {}
        with made.state() as state:
            holdings = state.holdings()
        places = {client: place for place, client in enumerate(holdings.client.tolist())}
        assert holdings.state[places[before]] == holdings.state[places[2990]] == 0b01010101
        assert holdings.due[places[before]] == holdings.due[places[2990]] == 0
        assert holdings.due[places[7]] == 0b10101010, "its answer never came"
        assert [tuple(entry.flags) for entry in log(platform, [before])] == [ALL, NONE]


def test_a_denial_waits_for_a_request_in_flight_of_the_same_client(tmp_path: Path, cli: Cli) -> None:
    """Never two at once for one client: what is applied last is the denial."""
    with running(Options(script=lambda number, client: Fault.STALL if number == 9 else None)) as platform:
        made = Night(tmp_path, platform.url, delivery="timeout_s = 12\nmax_concurrency = 4\nmax_rps = 50")
        made.write(dict.fromkeys(range(1, 3001), ALL))
        made.init()
        run = made.start("run")
        until(lambda: platform.requests >= 30, run)
        hangs = platform.platform.log[8]
        made.opt_out(cli, [hangs.client, 2990], "--no-send")
        until(lambda: log(platform, [2990]), run)
        assert len(log(platform, [hangs.client])) == 1, "the other's went beside it"
        until(lambda: len(log(platform, [hangs.client])) == 2, run)
        first, last = log(platform, [hangs.client])
        assert (tuple(first.flags), tuple(last.flags)) == (ALL, NONE)
        assert last.at_s - first.at_s > 2
        run.kill()
        run.wait()


def test_a_denial_that_hangs_does_not_delay_the_next_list(tmp_path: Path, cli: Cli) -> None:
    """Each list is sent beside the others; the run is asked to end, and has acknowledged the one and owes the other."""
    with running(Options(script=lambda number, client: Fault.STALL if client == 2990 else None)) as platform:
        made = Night(tmp_path, platform.url, delivery="timeout_s = 45\nmax_rps = 50\ndrain_s = 1")
        made.write(dict.fromkeys(range(1, 3001), ALL))
        made.init()
        run = made.start("run", "--json")
        until(lambda: platform.requests > 20, run)
        for who in (2990, 2991):
            made.opt_out(cli, [who], "--no-send")
            durable = time.monotonic()
            until(lambda: log(platform, [who]), run)  # noqa: B023 - called within the loop
            assert time.monotonic() - durable < _SOON_S
        time.sleep(0.3)
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=_PATIENCE_S)
        assert run.returncode == Exit.TERMINATED, out + err
        assert [leg["leg"] for leg in json.loads(out)["legs"]] == [1, 2, 3]
        assert made.owed() == {2990: 0b01010101}
        assert [tuple(entry.flags) for entry in log(platform, [2990, 2991])] == [NONE, NONE]


def test_an_export_that_is_waited_for_delays_no_list(tmp_path: Path, cli: Cli) -> None:
    """`complete = "stable:…"` waits without the lock: an opt-out sends its list itself; a second run ends in 75."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url, export='complete = "stable:30s"')
        made.write(dict.fromkeys(range(1, 301), ALL))
        plain = made.config.read_text()
        made.config.write_text(plain.replace('complete = "stable:30s"', ""))
        made.init()
        made.config.write_text(plain)
        os.utime(made.export)
        run = made.start("run")
        until(lambda: made.stage() == "reading", run)
        found = made.opt_out(cli, [5])
        assert found["run"] is not None, "this process sent it"
        assert run.poll() is None
        assert [tuple(entry.flags) for entry in log(platform, range(1, 301))] == [NONE]
        assert made.stage() == "reading"
        said = cli("run", "--config", made.config)
        assert said.code == Exit.BUSY, said
        assert "is reading" in said.err
        status = json.loads(cli("status", "--config", made.config, "--json").out)
        assert (status["busy"], status["running"]["stage"], status["died"]) == (True, "reading", [])
        assert cli("state", "check", "--config", made.config).code == Exit.OK
        run.kill()
        run.wait()
        status = json.loads(cli("status", "--config", made.config, "--json").out)
        assert (status["busy"], len(status["died"])) == (False, 1)
        made.config.write_text(plain.replace('complete = "stable:30s"', ""))
        said = cli("run", "--config", made.config, "--json")
        assert json.loads(said.out)["outcomes"]["delivered"] == 299
        assert platform.platform.state[5] == NONE


def test_a_run_that_reads_a_pipe_delays_no_list(tmp_path: Path, cli: Cli) -> None:
    """`dump | consent-sync run -`: the list goes out while the dump is still being written, and the run knows of it."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url)
        made.config.write_text(made.config.read_text().replace('as_of = "mtime"', 'as_of = "none"'))
        made.write(dict.fromkeys(range(1, 301), ALL))
        made.init()
        whole = made.export.read_bytes()
        run = made.start("run", "-", "--json", stdin=subprocess.PIPE)
        assert run.stdin is not None
        run.stdin.write(whole[:100])
        until(lambda: made.stage() == "reading", run)
        assert made.opt_out(cli, [5, 6])["run"] is not None
        assert run.poll() is None
        run.stdin.write(whole[100:])
        run.stdin.close()
        out, err = run.communicate(timeout=_PATIENCE_S)
        assert run.returncode == Exit.OK, out + err
        assert json.loads(out)["decided"]["blocked"] == 2
        assert [tuple(entry.flags) for entry in log(platform, [5, 6])] == [NONE, NONE]
        assert sum(flags == ALL for flags in platform.platform.state.values()) == 298
        kinds = [
            (run["kind"], run["stage"]) for run in json.loads(cli("runs", "-c", made.config, "--json").out)["runs"]
        ]
        assert kinds[-2:] == [("run", "reported"), ("opt-out", "reported")]


def test_a_list_that_comes_in_while_the_report_is_written_goes_out(tmp_path: Path, cli: Cli) -> None:
    """The report needs no lock: as long as it hangs, lists are sent, and the run is not taken for dead."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url)
        made.write(dict.fromkeys(range(1, 301), ALL))
        made.init()
        platform.capacity(max_rps=100)
        run = made.start("run")
        until(lambda: platform.requests > 10, run)
        folder = tmp_path / "reports" / str(lock.running(made.settings.state.path)["run"])
        folder.mkdir(exist_ok=True)
        os.mkfifo(folder / ".results.csv.new")
        os.mkfifo(folder / ".results.parquet.new")
        platform.capacity(max_rps=0)
        until(lambda: made.stage() == "reporting", run)
        assert made.opt_out(cli, [5])["run"] is not None
        assert run.poll() is None
        assert tuple(log(platform, [5])[-1].flags) == NONE
        assert json.loads(cli("status", "-c", made.config, "--json").out)["died"] == []
        run.kill()
        run.wait()
        for left in folder.glob(".results.*"):
            left.unlink()
        assert cli("drain", "--config", made.config).code in (Exit.OK, Exit.ATTENTION)
        assert json.loads(cli("status", "-c", made.config, "--json").out)["died"] == []
        assert made.owed() == {}
        assert platform.platform.state[5] == NONE


def test_a_run_that_was_suspended_sends_nothing_older_than_a_list_when_it_goes_on(tmp_path: Path, cli: Cli) -> None:
    """What it does first when it wakes is not a matter of luck: it asks at each dispatch."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url, delivery="max_rps = 50")
        made.write(dict.fromkeys(range(1, 3001), ALL))
        made.init()
        run = made.start("run")
        until(lambda: platform.requests > 20, run)
        run.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        seen = {entry.client for entry in platform.platform.log}
        who = [client for client in range(1, 3001) if client not in seen][:200]
        made.opt_out(cli, who, "--no-send")
        time.sleep(1)  # it would be let through at once for all of that time
        before = platform.requests
        run.send_signal(signal.SIGCONT)
        until(lambda: len(log(platform, who)) >= 200, run)
        run.kill()
        run.wait()
        assert [entry for entry in log(platform, who) if allows(entry)] == []
        older = [entry for entry in list(platform.platform.log)[before:] if allows(entry)]
        assert not older or min(entry.at_s for entry in older) > log(platform, who)[0].at_s


def _suspended(made: Night, platform: Standin) -> tuple[int, bytes]:
    """Run, suspend the run until its export has become too old, and return what it ends with and prints.

    A machine that is too slow for that has done the same to it.
    """
    os.utime(made.export)
    ends = time.time() + 3600 * made.settings.export.max_age_h
    run = made.start("run", "--json")
    until(lambda: platform.requests > 30 or run.poll() is not None or time.time() > ends)
    run.send_signal(signal.SIGSTOP)
    time.sleep(max(0.0, ends - time.time()) + 0.5)
    before = platform.requests
    run.send_signal(signal.SIGCONT)
    platform.capacity(max_rps=0)
    out, err = run.communicate(timeout=_PATIENCE_S)
    assert run.returncode in (Exit.HELD, Exit.ATTENTION), out + err
    on_its_way = made.settings.delivery.max_concurrency
    assert sum(allows(entry) for entry in list(platform.platform.log)[before:]) <= on_its_way
    return run.returncode, out


def test_an_export_that_becomes_too_old_while_it_is_sent_grants_nothing_more(tmp_path: Path) -> None:
    """A run that was suspended for too long ends in 6, and says why."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url, delivery="max_rps = 50\nmax_concurrency = 2", export="max_age_h = 0.006")
        made.write(dict.fromkeys(range(1, 3001), ALL))
        made.init()
        code, out = _suspended(made, platform)
        assert code == Exit.HELD
        assert any("too old" in reason for reason in json.loads(out)["reasons"])
        assert len(platform.platform.state) < 3000


def test_what_an_export_denies_is_sent_though_it_became_too_old_for_what_it_allows(tmp_path: Path) -> None:
    """A row that denies and allows at once is sent without what it allows."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url, delivery="max_rps = 100\nmax_concurrency = 2", export="max_age_h = 0.006")
        made.write(dict.fromkeys(range(1, 601), (True, False, False, False)))
        made.init("equal")
        made.write(dict.fromkeys(range(1, 601), (False, True, True, True)))
        code, _ = _suspended(made, platform)
        assert code == Exit.HELD
        assert {flags[0] for flags in platform.platform.state.values()} == {False}
        assert len(platform.platform.state) == 600


def test_a_plan_does_not_grant_when_its_export_has_become_too_old(tmp_path: Path, cli: Cli) -> None:
    """A plan may be applied for a day, and is as old as its export all the same."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url, export="max_age_h = 0.006")
        made.write(dict.fromkeys(range(1, 301), ALL))
        made.init()
        os.utime(made.export)
        ends = time.time() + 3600 * 0.006
        plan = tmp_path / "plan.parquet"
        assert cli("plan", "-o", plan, "--config", made.config).code == Exit.OK
        time.sleep(max(0.0, ends - time.time()) + 0.1)
        said = cli("apply", plan, "--config", made.config)
        assert said.code == Exit.HELD, said
        assert platform.requests == 0


@pytest.mark.parametrize("limit", [0, 1])
def test_a_limit_never_holds_back_what_is_owed(tmp_path: Path, cli: Cli, limit: int) -> None:
    """`run --limit N` sends all that is owed, and then N rows of the export at most."""
    with running(Options()) as platform:
        made = Night(tmp_path, platform.url)
        made.write(dict.fromkeys(range(1, 301), ALL))
        made.init()
        made.opt_out(cli, [5, 6, 7], "--no-send")
        cli("run", "--limit", limit, "--config", made.config)
        sent = [(entry.client, tuple(entry.flags)) for entry in platform.platform.log]
        assert sorted(sent[:3]) == [(5, NONE), (6, NONE), (7, NONE)]
        assert len(sent) == 3 + limit


def test_an_inbox_is_known_to_be_empty_without_being_listed(tmp_path: Path) -> None:
    """What is asked at each dispatch costs one call of the system; a list is seen at once, however coarse the times."""
    (tmp_path / "inbox").mkdir()
    clock = [time.time() + 10]
    lookout = inbox.Lookout(tmp_path, clock=lambda: clock[0])
    assert lookout.is_empty()
    changed = (tmp_path / "inbox").stat()
    (tmp_path / "inbox" / "a.parquet").touch()
    assert not lookout.is_empty()
    (tmp_path / "inbox" / "a.parquet").unlink()
    os.utime(tmp_path / "inbox", ns=(changed.st_atime_ns, changed.st_mtime_ns))
    clock[0] = changed.st_mtime
    young = inbox.Lookout(tmp_path, clock=lambda: clock[0])
    assert young.is_empty()
    (tmp_path / "inbox" / "b.parquet").touch()
    os.utime(tmp_path / "inbox", ns=(changed.st_atime_ns, changed.st_mtime_ns))
    assert not young.is_empty(), "its time did not change, and was too young to be relied on"
