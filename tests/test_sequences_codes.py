"""Sequences of commands: exit codes come from the state, and counts of what is owed add up and agree."""

import itertools
import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sync_job.consent.fold import DOUBT_WHOLE, Endings, Outcome
from sync_job.consent.known import Lingering, no_lingering
from sync_job.consent.rows import Lane, Rows
from sync_job.consent.settlement import settle
from sync_job.errors import PRECEDENCE, Exit, gravest
from sync_job.runs import owing
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli, Said
from tests.forked import Forked
from tests.listener import listening
from tests.scripted import Script
from tests.shop import FIELDS
from tests.test_lock import held_elsewhere

ROOT = Path(__file__).parent.parent
PATIENCE_S = 60.0
DAY_S = 86400.0
YES, NO = "true", "false"
MEMBERS = dict.fromkeys(range(1, 31), YES)


class Shop:
    """A target as `configs/nightly.toml` has it, in a folder of its own, with guards at their defaults."""

    def __init__(self, folder: Path, url: str, cli: Cli, **delivery: float) -> None:
        self.folder, self.config, self._cli = folder, folder / "nightly.toml", cli
        self.export, self.state = folder / "export.csv", folder / "state"
        text = (ROOT / "configs" / "nightly.toml").read_text("utf-8")
        text = text.replace("/var/lib/consent-sync/loyalty", str(folder)).replace(
            "https://loyalty.example.com/partner", url
        )
        text = re.sub(r'path = "/var/spool[^"]*"', f'path = "{self.export}"', text)
        text = text.replace("not_found_codes = []", "not_found_codes = [8]")
        sends = {"attempts": 1, "timeout_s": 2, "linger_s": 0.1, "max_outage_s": 1} | delivery
        text += "\n[delivery]\n" + "".join(f"{name} = {value}\n" for name, value in sends.items())
        text += f'\n[metrics]\ntextfile = "{folder / "metrics.prom"}"\n'
        self.config.write_text(text, "utf-8")

    def __call__(self, *arguments: object) -> Said:
        """Run a command with this configuration."""
        return self._cli(*arguments, "--config", self.config)

    def json(self, *arguments: object) -> dict[str, Any]:
        """Run a command, and return its object, whose exit code is that of the process."""
        said = self(*arguments, "--json")
        found: dict[str, Any] = json.loads(said.out)
        assert found.get("exit", said.code) == said.code, said
        return found

    def started(self, *arguments: object, **said: Any) -> Forked:
        """Start a command in a process of its own."""
        return Forked(*arguments, "--config", self.config, **said)

    def write(self, people: Mapping[int, str]) -> None:
        """Export these people, each with the same for every channel."""
        rows = (",".join([str(client), *[flag] * len(FIELDS)]) for client, flag in people.items())
        self.export.write_text("\n".join([",".join(("Client", *FIELDS)), *rows, ""]))

    def init(self, people: Mapping[int, str] = MEMBERS) -> None:
        """Make state in which the platform holds what is exported."""
        self.write(people)
        assert self("init", self.export, "--platform", "equal", "--no-withdrawals").code == 0

    def listed(self, *clients: object, name: str = "list.csv") -> Path:
        """Write a list."""
        path = self.folder / name
        path.write_text("Client\n" + "".join(f"{client}\n" for client in clients))
        return path

    def opt_out(self, *clients: object, days: float = 0.1, more: tuple[object, ...] = ()) -> Said:
        """Take in a list that was received so many days ago, and send it."""
        return self("opt-out", self.listed(*clients), "--received-at", ago(days), "--wait-s", "0", *more)

    def pass_days(self, days: float) -> None:
        """Let everything in the ledger have happened so much earlier."""
        with closing(sqlite3.connect(self.state / "ledger.db")) as db, db:
            for table, names in (
                ("obligations", ("started", "limit_at")),
                ("waiting", ("since", "next_at")),
                ("lingering", ("until",)),
            ):
                said = ", ".join(f"{name} = {name} - {days * DAY_S}" for name in names)
                db.execute(f"UPDATE {table} SET {said}")  # noqa: S608

    def owed(self) -> dict[str, Any]:
        """Return what `withdrawals status` says."""
        found: dict[str, Any] = json.loads(self("withdrawals", "status", "--json").out)
        return found

    def metric(self, name: str, labels: str = "") -> float | None:
        """Return a value of the text file."""
        text = (self.folder / "metrics.prom").read_text()
        found = re.search(rf"^consent_sync_{name}{{[^}}]*{labels}[^}}]*}} (\S+)$", text, re.M)
        return float(found[1]) if found else None


def ago(days: float) -> str:
    """Return a time so many days ago, as options have it."""
    return datetime.fromtimestamp(time.time() - days * DAY_S, UTC).isoformat()


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say the token that the shipped configuration wants."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__BEARER", "t-secret")


@pytest.fixture
def shop(tmp_path: Path, platform: Standin, cli: Cli) -> Shop:
    """Return a shop whose platform holds what it exports."""
    found = Shop(tmp_path, platform.url, cli)
    found.init()
    return found


@pytest.fixture
def late(shop: Shop, script: Script) -> Shop:
    """Return the shop with an opt-out of client 5 that the platform refuses, three days after it was received."""
    script.faults[5] = Fault.REFUSE
    assert shop.opt_out(5, days=3).code == 7
    return shop


# Whatever ends a command


def test_whatever_a_run_ends_in_an_opt_out_past_its_limit_is_7(late: Shop) -> None:
    """The export is there, the same, damaged or missing; and standard error says what is owed."""
    assert late("run").code == 7
    assert late("run", "--require-new").code == 7
    late.export.write_text("nonsense\n")
    assert late("run").code == 7
    late.export.unlink()
    said = late("run")
    assert said.code == 7
    (line,) = [line for line in said.err.splitlines() if "past its limit" in line]
    assert "1 client is owed a denial" in line
    assert f"since {ago(3)[:10]}" in line
    assert "`consent-sync withdrawals status`" in line
    assert "export.csv" in said.err
    assert [one["exit"] for one in json.loads(late("runs", "--json").out)["runs"]][-2:] == [7, 7]
    assert late.metric("last_exit_code", 'kind="run"') == 7


def _commands(shop: Shop) -> list[tuple[object, ...]]:
    """Return commands that work on the target, in an order in which each can be done."""
    evidence = shop.folder / "evidence.csv"
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n9,sms,{ago(1)},form,R-1\n")
    dump = shop.folder / "dump.csv"
    dump.write_text(shop.export.read_text())
    plan = shop.folder / "tonight.plan"
    return [
        ("plan", "-o", plan),
        ("apply", plan),
        ("run",),
        ("backfill", "--check"),
        ("backfill", "--denials"),
        ("undo", "2", "--check"),
        ("undo", "2"),
        ("drain",),
        ("opt-out", shop.listed(7, name="seven.csv"), "--received-at", ago(0.1)),
        ("opt-out", shop.listed(8, name="eight.csv"), "--received-at", ago(0.1), "--no-send"),
        ("forget", "--client", "11"),
        ("compare", dump),
        ("reconsent", evidence),
        ("approve",),
        ("purge",),
        ("status",),
        ("withdrawals", "status"),
        ("withdrawals", "report", "--from", "2020-01-01"),
        ("state", "repair"),
        ("pause", "--reason", "r", "--by", "b"),
        ("run",),
        ("drain", "--wait-s", "0"),
        ("opt-out", shop.listed(10, name="ten.csv"), "--received-at", ago(0.1), "--wait-s", "0"),
        ("compare", dump),
        ("resume",),
        ("doctor", "--offline"),
    ]


def test_every_command_that_works_on_a_target_ends_in_7(late: Shop) -> None:
    """Whether it sends, takes something in, or only says how things are; and `--json` says the same code."""
    for arguments in _commands(late):
        said = late(*arguments)
        assert said.code == 7, (arguments, said)
    for arguments in (("run",), ("drain",), ("plan",), ("compare", late.folder / "dump.csv"), ("doctor", "--offline")):
        assert late.json(*arguments)["exit"] == 7, arguments
    assert late.opt_out(12, more=("--json",)).code == 7
    assert json.loads(late.opt_out(13, more=("--json",)).out)["exit"] == 7


def test_commands_end_as_ever_when_nothing_is_late(shop: Shop, script: Script) -> None:
    """An opt-out that is refused and young alarms nobody."""
    script.faults[5] = Fault.REFUSE
    assert shop.opt_out(5, days=1).code == 1
    for arguments in (("plan",), ("drain",), ("status",), ("withdrawals", "status"), ("purge",)):
        said = shop(*arguments)
        assert (said.code, "past its limit" in said.err) == (0, False), (arguments, said)
    shop.export.unlink()
    assert shop("run").code == 3


def test_commands_that_only_show_or_copy_end_in_their_own_code(late: Shop) -> None:
    """A script can tell that a backup was made."""
    for arguments in (
        ("check",),
        ("runs",),
        ("report",),
        ("explain", "5"),
        ("history", "5"),
        ("snapshot", "show", "5"),
        ("snapshot", "export", late.folder / "snapshot.csv"),
        ("withdrawals", "export", late.folder / "withdrawals.csv"),
        ("state", "check"),
        ("state", "backup", late.folder / "backup.tar"),
    ):
        said = late(*arguments)
        assert (said.code, "past its limit" in said.err) == (0, False), (arguments, said)


@pytest.mark.parametrize(("number", "alone"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_in_7_too(tmp_path: Path, cli: Cli, number: int, alone: int) -> None:
    """Also if it is interrupted before it has sent anything, as while it waits for its export."""
    script = Script()
    script.faults[5] = Fault.REFUSE
    with running(Options(script=script)) as platform:
        shop = Shop(tmp_path, platform.url, cli)
        shop.init()
        shop.export.unlink()
        for code in (alone, 7):
            with shop.started("run", "--wait-for-export", "2h") as process:
                time.sleep(1.5)
                process.send_signal(number)
                assert process.wait(PATIENCE_S) == code
            if code == alone:
                assert shop.opt_out(5, days=3).code == 7


@contextmanager
def _situation(shop: Shop, script: Script, code: Exit) -> Iterator[tuple[object, ...]]:
    """Bring about what ends a command in *code*, and yield the command."""
    with ExitStack() as stack:
        if code is Exit.CONFIG:
            yield ("run", "--until", "noon")
        elif code is Exit.STATE:
            (snapshot,) = sorted((shop.state / "snapshots").glob("*.parquet"), key=lambda path: int(path.stem))[-1:]
            whole = snapshot.read_bytes()
            snapshot.write_bytes(whole[:-1])
            yield ("run",)
            snapshot.write_bytes(whole)
        elif code is Exit.EXPORT:
            shop.export.unlink()
            yield ("run",)
        elif code is Exit.ENDPOINT:
            script.otherwise = Fault.UNAUTHORISED
            shop.write(MEMBERS | {20: NO})
            yield ("run",)
        elif code is Exit.BUSY:
            stack.enter_context(held_elsewhere(shop.state))
            yield ("run",)
        elif code is Exit.HELD:
            shop.write(MEMBERS | {20: NO})
            os.utime(shop.export, (time.time() - 9 * DAY_S,) * 2)
            yield ("run",)
        elif code is Exit.ATTENTION:
            script.faults[21] = Fault.REFUSE
            shop.write(MEMBERS | {21: NO})
            yield ("run",)
        else:
            yield ("status",)


ALONE = (
    *(Exit.CONFIG, Exit.STATE, Exit.EXPORT, Exit.ENDPOINT),
    *(Exit.BUSY, Exit.HELD, Exit.ATTENTION, Exit.OK),
)


@pytest.mark.parametrize("code", ALONE)
def test_of_two_reasons_the_first_of_the_table_is_the_code(shop: Shop, script: Script, code: Exit) -> None:
    """Each reason alone, and together with an opt-out past its limit, which only 2 ranks before."""
    with _situation(shop, script, code) as command:
        assert shop(*command).code == code
    script.otherwise = None
    shop.write(MEMBERS)
    script.faults[5] = Fault.REFUSE
    assert shop.opt_out(5, days=3).code == 7
    with _situation(shop, script, code) as command:
        said = shop(*command)
        assert said.code == gravest({code, Exit.OBLIGATION}), said
        assert said.code == (2 if code is Exit.CONFIG else 7)


@pytest.mark.parametrize("code", PRECEDENCE)
def test_the_table_ranks_every_pair_with_7(code: Exit) -> None:
    """A bug and the configuration go before it, and all others after."""
    found = owing.code({"past_limit": 1}, code)
    assert found == (code if code in (Exit.BUG, Exit.CONFIG) else Exit.OBLIGATION)
    assert owing.code({"past_limit": 0}, code) == owing.code(None, code) == code


def test_a_state_that_cannot_be_opened_keeps_its_own_code(late: Shop) -> None:
    """Nobody can tell what is owed there."""
    ledger = late.state / "ledger.db"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"nonsense" * 1000)
    assert late("run").code == late("drain").code == 4
    ledger.unlink()
    assert late("run").code == late("status").code == 4
    ledger.write_bytes(whole)
    assert late("status").code == 7


def _elsewhere(shop: Shop) -> None:
    """Let the configuration say `localhost` for `127.0.0.1` or the other way, as if the host was renamed."""
    text = shop.config.read_text()
    found = re.search(r'base_url = "([^"]*)"', text)
    assert found is not None
    names = ("localhost", "127.0.0.1")
    was, now = names if names[0] in found[1] else names[::-1]
    shop.config.write_text(text.replace(found[1], found[1].replace(was, now)))


def test_a_configuration_with_another_address_hides_nothing_that_is_owed(late: Shop, platform: Standin) -> None:
    """Before `state retarget`, by it with the old address or with the new one, and after it: 7, by the state's name."""
    old, new = platform.url, platform.url.replace("127.0.0.1", "localhost")
    move = ("--same-platform", "--reason", "r", "--by", "me")
    said = late("state", "retarget", new, *move)  # the configuration has the old address
    assert (said.code, f"{new} operator 1: 1 client is owed" in said.err) == (7, True), said
    late("pause", "--reason", "r", "--by", "me")
    said = late("resume")
    assert (said.code, f"{new} operator 1: 1 client is owed" in said.err) == (7, True), said
    for command in (("run",), ("drain",), ("withdrawals", "status"), ("status",)):
        said = late(*command)
        assert (said.code, f"the state of {new}" in said.err, "past its limit" in said.err) == (7, True, True), said
        assert late.metric("last_exit_code", 'kind="run"') == 7
    _elsewhere(late)
    assert late("drain").code == 7
    said = late("state", "retarget", old, *move)  # the configuration has the address that it moves from
    assert (said.code, f"{old} operator 1: 1 client is owed" in said.err) == (7, True), said
    _elsewhere(late)
    assert late("state", "retarget", old, *move).code == 7  # done again
    assert late("drain").code == 7


def test_another_address_alone_is_no_alarm(shop: Shop, platform: Standin) -> None:
    """Nothing is late: `retarget` and `resume` end in 0, and what needs the state's own address in 4."""
    new = platform.url.replace("127.0.0.1", "localhost")
    assert shop("state", "retarget", new, "--same-platform", "--reason", "r", "--by", "me").code == 0
    shop("pause", "--reason", "r", "--by", "me")
    assert shop("resume").code == 0
    assert shop("drain").code == 4


# Lists in the inbox


def test_a_list_behind_codes_that_cannot_be_read_is_past_its_limit(shop: Shop) -> None:
    """The key of the codes of the erased is lost: a run ends in 4, and in 7 once a list waits for too long."""
    assert shop("forget", "--client", "9").code == 0
    (shop.folder / "keys" / "tombstones.key").unlink()
    assert shop("run").code == 4
    assert shop.opt_out(5, days=3).code == 7
    assert shop("run").code == shop("drain").code == 7
    assert shop.owed()["past_limit"] == 1


def test_a_list_behind_a_run_that_hangs_is_past_its_limit(tmp_path: Path, cli: Cli) -> None:
    """No command waits for the lock to be free to say so, and all say the same."""
    with running(Options(latency_ms=400)) as platform:
        shop = Shop(tmp_path, platform.url, cli, max_concurrency=1)
        shop.init()
        shop.write(dict.fromkeys(MEMBERS, NO))
        with shop.started("run") as process:
            deadline = time.monotonic() + PATIENCE_S
            while not platform.requests:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGSTOP)
            try:
                said = shop.opt_out(5, 6, days=3)
                assert (said.code, "2 clients are owed a denial" in said.err) == (7, True), said
                assert shop("drain", "--wait-s", "0").code == 7
                assert shop("run").code == 7
                figures = {"open": 2, "past_target": 2, "past_limit": 2, "lists_waiting": 1, "clients_waiting": 2}
                _agree(shop, figures, plan=False)
            finally:
                process.send_signal(signal.SIGCONT)
                process.kill()
    with running(Options()) as platform:
        shop.config.write_text(re.sub(r"http://127\.0\.0\.1:\d+", platform.url, shop.config.read_text()))


def _agree(shop: Shop, figures: Mapping[str, int], *, plan: bool = True) -> None:
    """Hold that all who say what is owed say this; a *plan* is not made while a run is under way."""
    owed = shop.owed()
    assert {name: owed[name] for name in figures} == figures
    assert {name: shop.json("status")["owed"][name] for name in figures} == figures
    if plan:
        assert {name: shop.json("plan")["withdrawals"][name] for name in figures} == figures
    (check,) = [one for one in shop.json("doctor", "--offline")["checks"] if one["what"] == "obligations"]
    assert (check["verdict"], check["exit"]) == ("problem", 7)
    assert f"{figures['open']} open" in check["found"]
    assert f"{figures['past_limit']} past their limit" in check["found"]
    for name, metric in (
        ("open", "obligations_open"),
        ("past_target", "obligations_past_target"),
        ("past_limit", "obligations_past_limit"),
        ("lists_waiting", "inbox_lists"),
        ("clients_waiting", "inbox_clients"),
    ):
        assert shop.metric(metric) == figures[name], metric
    assert shop.metric("obligation_oldest_timestamp_seconds") == pytest.approx(owed["oldest_started"])


def test_a_list_that_waits_while_paused_is_past_its_limit(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics and messages say so, as all commands do; when it was sent they say that it is over."""
    with listening() as there:
        monkeypatch.setenv("CONSENT_SYNC__NOTIFY__WEBHOOK", f"{there.url}/hook/x")
        assert shop("pause", "--reason", "migration", "--by", "operations").code == 0
        assert shop.opt_out(5, days=0.5).code == 75
        assert [path for path in there.paths if "hook" in path] == []
        assert shop.opt_out(6, 7, days=3).code == 7
        said = shop("drain", "--wait-s", "0")
        assert (said.code, "paused by operations" in said.out) == (7, True)
        told = [post.json for post in there.posts]
        assert [(one["kind"], one["exit"], one["state"]) for one in told] == [
            ("opt-out", 7, "act"),
            ("drain", 7, "act"),
        ]
        assert "2 clients are owed a denial that is past its limit" in " ".join(told[1]["reasons"])
        _agree(shop, {"open": 3, "past_target": 2, "past_limit": 2, "lists_waiting": 2, "clients_waiting": 3})
        assert shop.metric("last_exit_code", 'kind="drain"') == 7
        assert shop("resume").code == 7
        assert shop("drain").code == 0
        assert there.posts[-1].json["state"] == "fine"
    assert (shop.owed()["open"], shop.metric("obligations_past_limit"), shop.metric("inbox_lists")) == (0, 0, 0)


def test_rows_in_the_inbox_that_were_dealt_with_before_are_not_late(shop: Shop) -> None:
    """The same list of last week, put there again every quarter of an hour, wakes nobody; a row beside them does."""
    at = ago(6)
    path = shop.listed(5, 6)
    arguments = ("--received-at", at, "--wait-s", "0")
    assert shop("opt-out", path, *arguments).code == 0
    with held_elsewhere(shop.state):
        for again in (path, shop.listed(6, name="other.csv")):
            said = shop("opt-out", again, *arguments)
            assert (said.code, "past its limit" in said.err) == (0 if again == path else 75, False), said
        assert shop("withdrawals", "status").code == 0
        said = shop("opt-out", shop.listed(5, 6, 7, name="more.csv"), *arguments)
        assert (said.code, "1 client is owed" in said.err) == (7, True)


def test_a_client_who_is_owed_a_denial_and_listed_again_counts_once(shop: Shop, script: Script) -> None:
    """By the earlier receipt; who was parked is open again, because a person who asks anew is sent at once."""
    script.faults[5] = Fault.REFUSE
    assert shop.opt_out(5, days=1).code == 1
    with held_elsewhere(shop.state):
        assert shop.opt_out(5, days=3).code == 7
        owed = shop.owed()
    assert (owed["open"], owed["past_limit"], owed["clients_waiting"]) == (1, 1, 1)


# What is acknowledged


def _list_said(said: Said) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said.out)["sent"]
    return found


def test_a_list_that_repeats_a_refused_row_does_not_call_it_acknowledged(shop: Shop, script: Script) -> None:
    """It goes by the row, whatever list brought it first."""
    script.faults[7] = Fault.REFUSE
    at = ("--received-at", ago(0.5))
    assert shop("opt-out", shop.listed(7), *at).code == 1
    for _ in range(2):
        said = shop("opt-out", shop.listed(7, 8, name="both.csv"), *at, "--json")
        found = _list_said(said)
        assert (said.code, found["acknowledged"], found["refused"]) == (1, 1, 1), said
    script.faults[7] = None
    shop.pass_days(1)
    assert shop("drain").code == 0
    assert shop("opt-out", shop.listed(9), *at).code == 0
    said = shop("opt-out", shop.listed(7, 8, 9, name="all.csv"), *at)
    assert (said.code, "by another list acknowledged: all of its rows" in said.out) == (0, True), said


def test_a_list_says_how_its_rows_ended_otherwise(shop: Shop, script: Script) -> None:
    """Closed by hand, lifted, parked: none of it is acknowledged."""
    script.faults |= {7: Fault.REFUSE, 8: Fault.REFUSE}
    at = ("--received-at", ago(1.5), "--request-ref", "R")
    assert shop("opt-out", shop.listed(7, 8, 9), *at).code == 1
    assert shop("withdrawals", "close", "--client", "7", "--reason", "gone", "--by", "DPO").code == 0
    evidence = shop.folder / "evidence.csv"
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n8,sms email push,{ago(0.1)},form,R-1\n")
    assert shop("reconsent", evidence).code == 0
    said = shop("opt-out", shop.listed(7, 8, 9, name="again.csv"), *at, "--json")
    found = _list_said(said)
    assert (said.code, found["acknowledged"], found["open"]) == (0, 1, 0)
    assert found["ended_otherwise"] == {"by hand": 1, "lifted": 1}
    words = shop("opt-out", shop.listed(7, 8, 9, name="again.csv"), *at).out
    assert "1 closed by hand, 1 lifted by evidence" in words


def test_a_row_is_not_acknowledged_while_a_dump_shows_that_it_is_allowed(shop: Shop) -> None:
    """Whatever a denial of its channels is owed for."""
    at = ("--received-at", ago(0.5))
    path = shop.listed(7)
    assert shop("opt-out", path, *at).code == 0
    dump = shop.folder / "dump.csv"
    dump.write_text(shop.export.read_text())
    assert shop("compare", dump).code == 1
    with held_elsewhere(shop.state):
        assert shop("opt-out", path, *at, "--wait-s", "0").code == 75
    said = shop("opt-out", path, *at, "--json")
    assert (said.code, _list_said(said)["acknowledged"]) == (0, 1), "sent once more"


# Sums


def _report(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shop("withdrawals", "report", "--from", "2020-01-01", "--json").out)
    ended = found["ended_otherwise"]
    assert found["received"] == found["acknowledged"] + sum(ended.values()) + found["open"] + found["parked"]
    return found


def test_what_was_received_adds_up(tmp_path: Path, cli: Cli) -> None:
    """Acknowledged, refused, parked, closed by hand, lifted, void, erased: each row is in one count."""
    script = Script()
    script.faults |= {3: Fault.REFUSE, 4: Fault.REFUSE}
    with running(Options(script=script, unknown_every=29)) as platform:
        shop = Shop(tmp_path, platform.url, cli)
        shop.init()
        evidence = shop.folder / "evidence.csv"
        evidence.write_text(
            "Client,channels,granted_at,method,evidence_ref\n"
            f"3,sms email push,{ago(0.05)},form,R-1\n6,sms email push,{ago(0.1)},form,R-2\n"
        )
        shop.opt_out(1, 2, 3, 4, 5, 6, 29, days=1)
        assert _report(shop)["received"] == 7
        assert shop("withdrawals", "close", "--client", "4", "--reason", "gone", "--by", "DPO").code == 0
        assert shop("reconsent", evidence).code == 0
        assert shop("opt-out", shop.listed(6, name="old.csv"), "--received-at", ago(0.7)).code == 0
        wrong = shop("opt-out", shop.listed(8, 9, name="wrong.csv"), "--received-at", ago(0.5), "--json")
        digest = json.loads(wrong.out)["list"]
        void = ("withdrawals", "void", "--list", digest, "--reason", "wrong", "--by", "A", "--approved-by", "B")
        assert shop(*void).code == 0
        script.faults[10] = Fault.REFUSE
        assert shop("opt-out", shop.listed(10, name="ten.csv"), "--received-at", ago(0.4)).code == 1
        assert shop("forget", "--client", "1").code == 0
        found = _report(shop)
        assert (found["received"], found["acknowledged"], found["open"], found["parked"]) == (11, 3, 1, 1)
        assert found["ended_otherwise"] == {"by hand": 1, "erased": 1, "lifted": 1, "superseded": 1, "void": 2}
        words = shop("withdrawals", "report", "--from", "2020-01-01").out
        assert re.search(r"otherwise +6: 1 closed by hand, 1 of erased clients, 1 lifted by evidence", words)
        assert shop("opt-out", shop.listed(8, name="eight.csv"), "--received-at", ago(0.3)).code == 0
        assert _report(shop)["ended_otherwise"]["void"] == 2


def test_denials_that_no_list_asked_for_add_up_too(shop: Shop, script: Script) -> None:
    """A revocation by an export that was refused, one that was overtaken, and what a dump showed."""
    script.faults |= {5: Fault.REFUSE, 6: Fault.REFUSE}
    shop.write(MEMBERS | {5: NO, 6: NO})
    assert shop("run").code == 1
    shop.write(MEMBERS | {5: NO})
    shop("run")
    found = _report(shop)["others"]
    assert (found["owed"], found["open"], found["ended_otherwise"]) == (2, 1, {"overtaken": 1})


# What is owed


STATES = tuple(itertools.product((0, 1, 2), (0, 1, 2)))


@pytest.mark.parametrize(("state", "due"), STATES)
def test_a_denial_of_what_may_be_allowed_is_owed_until_it_is_acknowledged(state: int, due: int) -> None:
    """For every State, Due, Sent, outcome, doubt, and an older request on its way, of one channel."""
    client, started = np.array([7], np.int32), 1000.0
    lingers_on = Lingering(client, np.array([started + 60]), np.array([False]))
    outcomes = (Outcome.DELIVERED, Outcome.REFUSED, Outcome.EXHAUSTED, Outcome.DEFERRED)
    for sent, outcome, doubt, lingers in itertools.product((1, 2), outcomes, (0, DOUBT_WHOLE), (False, True)):
        rows = Rows(client, *(np.array([byte], np.uint8) for byte in (state, due, sent, Lane.DENIAL)))
        how, denials, doubts = (np.array([one], np.uint8) for one in (outcome, Outcome.OPEN, doubt))
        ends = Endings(how, denials, doubts, np.array([started]))
        found = settle(
            rows,
            ends,
            np.array([started + 1]),
            np.array([False]),
            lingers_on if lingers else no_lingering(),
            started,
            np.array([True]),
        )
        case = (sent, outcome, doubt, lingers)
        may_be_allowed = state == 2 or due == 2
        if outcome is Outcome.DELIVERED:
            may_be_allowed = due == 2 and lingers  # a grant whose answer was lost may arrive after the denial
        assert bool(len(found.revoked.client)) == (sent == 1 and may_be_allowed), case
        if len(found.acknowledged.client):
            assert not len(found.revoked.client), case


def test_a_revocation_of_a_grant_whose_answer_was_lost_is_owed(shop: Shop, script: Script, platform: Standin) -> None:
    """The platform has it, and refuses the denial: after two days it is 7, and tries are daily."""
    shop.write(MEMBERS | {5: NO})
    assert shop("run").code == 0
    script.faults[5] = Fault.ERROR_AFTER
    shop.write(MEMBERS)
    assert shop("run").code in (1, 5)
    assert platform.platform.state[5][0] is True
    script.faults[5] = Fault.REFUSE
    shop.pass_days(1)
    shop.write(MEMBERS | {5: NO})
    assert shop("run").code == 1
    assert shop.owed()["by_source"] == {"revocation": 1}
    shop.pass_days(3)
    shop.write(MEMBERS | {5: NO})
    assert shop("run").code == 7
    script.faults[5] = None
    shop.pass_days(1)
    assert shop("drain").code == 0
    assert platform.platform.state[5][0] is False


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.STALL, Fault.REFUSE, Fault.GARBAGE, Fault.UNAVAILABLE])
def test_parked_is_only_what_the_last_answer_said(tmp_path: Path, cli: Cli, fault: Fault) -> None:
    """Any other end of a later attempt counts against the limit again; another *not found* parks it again."""
    script = Script()
    with ExitStack() as stack:
        # As in a platform that lost its members for a while.
        platform = stack.enter_context(running(Options(script=script, unknown_every=5)))
        shop = Shop(tmp_path, platform.url, cli, timeout_s=0.3)
        shop.init()
        assert shop.opt_out(5, days=1.5).code == 1
        assert (shop.owed()["open"], shop.owed()["parked"]) == (0, 1)
        shop.pass_days(3)
        assert shop("withdrawals", "status").code == 0, "parked is no alarm"
        script.faults[5] = fault
        shop("drain")
        owed = shop.owed()
        assert (owed["open"], owed["parked"], owed["past_limit"]) == (1, 0, 1)
        assert shop("status").code == 7
        script.faults[5] = None
        shop.pass_days(1)
        shop("drain")
        assert (shop.owed()["open"], shop.owed()["parked"]) == (0, 1)
        assert shop("status").code == 0


def test_a_revocation_that_was_closed_by_hand_is_owed_no_more(shop: Shop, script: Script, platform: Standin) -> None:
    """Its denial still goes out, and is refused; it is a new case when the export allowed it in between."""
    script.faults[5] = Fault.REFUSE
    denied_now, allowed_now = MEMBERS | {5: NO}, MEMBERS

    def night(people: Mapping[int, str], days: float = 1) -> int:
        shop.pass_days(days)
        shop.write(people)
        return shop("run").code

    assert night(denied_now) == 1
    assert night(denied_now, 3) == 7
    assert shop("withdrawals", "close", "--client", "5", "--reason", "deleted there", "--by", "DPO").code == 0
    before = platform.requests
    for _ in range(4):
        assert night(denied_now, 3) in (0, 1)
        assert shop.owed()["open"] == 0
    assert platform.requests > before
    script.faults[5] = None
    assert night(allowed_now) in (0, 1)
    script.faults[5] = Fault.REFUSE
    assert night(denied_now) == 1
    assert shop.owed()["open"] == 1
    assert night(denied_now, 3) == 7


def test_a_doubtful_export_opens_no_closed_case(shop: Shop, script: Script) -> None:
    """An old file that says *allowed* is no news of the client."""
    script.faults[5] = Fault.REFUSE
    shop.write(MEMBERS | {5: NO})
    assert shop("run").code == 1
    assert shop("withdrawals", "close", "--client", "5", "--reason", "deleted there", "--by", "DPO").code == 0
    old = shop.folder / "old.csv"
    old.write_text(shop.export.read_text().replace(f"5,{NO}", f"5,{YES}"))
    os.utime(old, (time.time() - 9 * DAY_S,) * 2)
    assert shop("run", old).code == 6
    shop.pass_days(8)
    shop.write(MEMBERS | {5: NO})
    shop("run")
    assert shop.owed()["open"] == 0


@pytest.mark.parametrize("how", ["compare", "erasure", "withdrawal", "list and export"])
def test_whatever_is_closed_by_hand_does_not_come_back_by_a_refusal(shop: Shop, script: Script, how: str) -> None:
    """A denial that a dump, a list or an erasure asked for, like one that an export did."""
    script.faults[5] = Fault.REFUSE
    if how == "compare":
        script.faults[5] = None
        assert shop.opt_out(5, more=("--scope", "all")).code == 0
        script.faults[5] = Fault.REFUSE
        assert shop("compare", shop.export).code == 1
    elif how == "erasure":
        assert shop("forget", "--client", "5").code == 1
    else:
        assert shop.opt_out(5, more=("--scope", "all")).code == 1
    if how == "list and export":
        shop.write(MEMBERS | {5: NO})
        shop("run")
    assert shop.owed()["open"] + shop.owed()["parked"] == 1
    assert shop("withdrawals", "close", "--client", "5", "--reason", "deleted there", "--by", "DPO").code == 0
    for _ in range(3):
        shop.pass_days(3)
        shop.write(MEMBERS | {5: NO})
        assert shop("run").code in (0, 1)
        assert shop("drain").code == 0
        assert shop.owed()["open"] == 0


# The endpoint, or the row


def test_one_client_without_a_good_answer_does_not_make_the_endpoint_gone(shop: Shop, script: Script) -> None:
    """The rest was delivered in the same run: exit 1, for that row. Without any good answer it is 5."""
    script.faults[5] = Fault.ERROR_BEFORE
    assert shop.opt_out(5, days=0.1).code == 5, "nothing answered well"
    shop.write(MEMBERS | dict.fromkeys(range(10, 14), NO))
    said = shop("run", "--json")
    found = json.loads(said.out)
    assert (said.code, found["outcomes"]["delivered"]) == (1, 4), said
    assert "not one good answer" not in said.out
    assert shop.opt_out(6).code == 1, "and so does a list beside it"
    assert shop("drain").code == 5
    shop.write(MEMBERS | dict.fromkeys(range(10, 15), NO))
    assert shop("run").code == 1
    assert shop.owed()["open"] == 1


def test_many_clients_without_a_good_answer_keep_nothing_else_from_being_sent(shop: Shop, script: Script) -> None:
    """More of them than the run tries before it gives an endpoint up, and all before the others."""
    script.faults |= dict.fromkeys(range(1, 8), Fault.ERROR_BEFORE)
    assert shop.opt_out(*range(1, 8), days=1).code == 5
    assert shop.opt_out(*range(21, 25), days=0.5).code == 1
    assert shop.owed()["open"] == 7, "those that came later were sent"
    shop.write(MEMBERS | dict.fromkeys(range(10, 14), NO))
    said = shop("run", "--json")
    assert (said.code, json.loads(said.out)["outcomes"]["delivered"]) == (1, 4), said
    script.otherwise = Fault.ERROR_BEFORE
    shop.write(MEMBERS | dict.fromkeys(range(10, 20), NO))
    assert shop("run").code == 5


# What is said is so


def test_a_list_of_which_nothing_is_to_be_sent_does_not_claim_to_be_sent_before(shop: Shop, script: Script) -> None:
    """New, and every row waits for its next try, is acknowledged by another list, or was outdone by evidence."""
    script.faults[5] = Fault.REFUSE
    shop.opt_out(5, 6)
    path = shop.folder / "again.csv"
    path.write_text("Client\n6\n5\n5\n")
    words = ("--received-at", ago(0.1))
    for _ in range(2):
        said = shop("opt-out", path, *words)
        assert "sent before" not in said.out
    evidence = shop.folder / "evidence.csv"
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n6,all,{ago(0.01)},form,R-1\n")
    assert shop("reconsent", evidence).code == 0
    said = shop.opt_out(6, days=0.5)
    assert "1 lifted by later evidence" in said.out
    assert "this command sent nothing: nothing of the list is to be sent now" in said.out


def test_a_list_of_erased_people_is_no_list(shop: Shop) -> None:
    """Nothing is taken in, nothing lies in the inbox, no list is recorded, and none is named by its digest."""
    assert shop("forget", "--client", "9").code == 0
    said = shop.opt_out(9)
    assert said.code == 0
    assert said.out.splitlines() == [
        f"no row of the list is taken in for {said.out.split(' for ')[1].splitlines()[0]}",
        "  erased     1 row names a person who was erased since; not taken in",
        "  nothing was sent",
    ]
    with held_elsewhere(shop.state):
        said = shop.opt_out(9)
        assert (said.code, "not sent" in said.out) == (0, False), said
    assert shop.owed()["lists"] == []
    said = shop.opt_out(9, 7)
    assert "is taken in for" in said.out
    assert "1 client\n" in said.out


@pytest.mark.parametrize("how", ["list", "erasure", "export"])
def test_closing_says_whether_a_withdrawal_stays(shop: Shop, script: Script, how: str) -> None:
    """Of a list one does; an erasure and a revocation by the export have none."""
    script.faults[5] = Fault.REFUSE
    if how == "list":
        shop.opt_out(5)
    elif how == "erasure":
        shop("forget", "--client", "5")
    else:
        shop.write(MEMBERS | {5: NO})
        shop("run")
    said = shop("withdrawals", "close", "--client", "5", "--reason", "r", "--by", "b")
    assert said.code == 0, said
    assert "1 obligation at" in said.out
    assert ("the withdrawal stays in force" in said.out) == (how == "list")
    assert ("no withdrawal of the client is in force" in said.out) == (how != "list")


@pytest.mark.parametrize("count", [1, 2])
def test_a_restored_backup_says_how_many_lists_wait(shop: Shop, count: int) -> None:
    """One list was in the inbox, two were; and a plan agrees."""
    shop("pause", "--reason", "r", "--by", "b")
    for client in range(count):
        shop.opt_out(client + 1)
    shop("resume")
    assert f"{count} list{' in the inbox is' if count == 1 else 's in the inbox are'} not counted" in shop("plan").out
    assert shop("state", "backup", shop.folder / "b.tar").code == 0
    shop.state.rename(shop.folder / "lost")
    said = shop("state", "restore", shop.folder / "b.tar")
    words = "1 list was in the inbox; the next run or drain takes it in"
    assert (words if count == 1 else "2 lists were in the inbox; the next run or drain takes them in") in said.out


# ---- a list in the inbox binds already


def test_every_answer_about_a_client_counts_a_list_in_the_inbox(shop: Shop, platform: Standin) -> None:
    """What it withdraws is denied, owed, written and counted by what only looks, as by the drain that sends it."""
    path = shop.folder / "list.csv"
    path.write_text("Client\n5\n")
    words = ("--received-at", ago(0.1), "--scope", "all", "--basis", "objection", "--no-send")
    assert shop("opt-out", path, *words).code == 0
    for export in ([], [shop.export]):
        found = shop.json("explain", "5", *export)
        assert {one["target"] for one in found["channels"].values()} == {"denied"}
        assert found["would_send"] == "FFFF"
        assert len(found["coming"]) == 1
    said = shop("explain", "5")
    assert "which no run has taken in yet" in said.out
    assert "nothing would be sent" not in said.out
    (shown,) = shop.json("snapshot", "show", "5")["clients"]
    assert len(shown["withdrawn"]) == 4
    assert shown["owed"]
    checked = shop.json("forget", "--client", "5", "--client", "6", "--check")
    assert (checked["withdrawn"], checked["owed"]) == (1, 1)
    written = shop.folder / "written.csv"
    assert shop("withdrawals", "export", written).code == 0
    assert [line.split(",")[0] for line in written.read_text().splitlines()[1:]] == ["5"]
    assert shop.json("withdrawals", "status")["lists_waiting"] == 1, "nothing was taken in by looking"
    assert platform.requests == 0
    assert shop("drain").code == 0
    assert set(platform.platform.state) == {5}
    assert shop("withdrawals", "export", shop.folder / "again.csv").code == 0
    assert (shop.folder / "again.csv").read_text() == written.read_text()


def _until(moment: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not moment():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_list_that_another_process_has_taken_in_and_not_sent_is_still_to_be_sent(tmp_path: Path, cli: Cli) -> None:
    """The command ends in 75, and does not say that nothing of the list is to be sent."""
    with running(Options(latency_ms=60)) as slow:
        shop = Shop(tmp_path, slow.url, cli, max_concurrency=1)
        shop.init(dict.fromkeys(range(1, 401), YES))
        shop.write(dict.fromkeys(range(1, 41), NO) | dict.fromkeys(range(41, 401), YES))
        process = shop.started("run")
        _until(lambda: slow.requests > 2)
        path = shop.folder / "list.csv"
        path.write_text("Client\n" + "".join(f"{client}\n" for client in range(300, 380)))
        words = ("--received-at", ago(0.1), "--scope", "all", "--basis", "objection")
        assert shop("opt-out", path, *words, "--no-send").code == 0
        _until(lambda: any(300 <= entry.client < 380 for entry in list(slow.platform.log)))
        process.send_signal(signal.SIGSTOP)
        said = shop("opt-out", path, *words, "--wait-s", "0.1")
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE_S) in (0, 1)
    assert said.code == Exit.BUSY
    assert "not sent" in said.out
    assert "nothing of the list is to be sent now" not in said.out
