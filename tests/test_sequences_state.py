"""What every command leaves of the state, a full disk, several brands, and commands that died half-way."""

import errno
import json
import os
import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer

from sync_job.cli.app import app
from sync_job.errors import StateDamagedError, StorageError
from sync_job.ledger import files, inbox
from sync_job.standin.background import Standin
from sync_job.standin.faults import Fault
from tests.commands import Cli, Said
from tests.dying import Commands, commands
from tests.nightly import Nightly
from tests.scripted import Script
from tests.shop import NO_GUARDS, holds
from tests.test_files import small_disk

YES, NO = (True,) * 4, (False,) * 4


@pytest.fixture(scope="module")
def process() -> Iterator[Commands]:
    """Return the process that commands are forked from."""
    with commands() as process:
        yield process


# ---- every command, and then state check and state backup


class Whole:
    """Runs commands on one shop, and holds after each that its state is whole and can be backed up."""

    def __init__(self, shop: Nightly) -> None:
        self.shop = shop
        self.used: set[str] = set()

    def __call__(self, *arguments: object, codes: tuple[int, ...] = (0, 1)) -> Said:
        """Run a command, which must end in one of *codes*, and look at the state."""
        words = [*str(arguments[0]).split(), *(str(one) for one in arguments[1:])]
        for name in _commands():
            if words[: len(name.split())] == name.split():
                self.used.add(name)
        said = self.shop.run(*words)
        assert said.code in codes, (words, said)
        checked = self.shop.run("state", "check")
        assert checked.code == 0, [words, *(line for line in checked.out.splitlines() if not line.startswith("ok"))]
        backup = self.shop.folder / "backup.tar"
        assert self.shop.run("state", "backup", backup).code == 0, words
        backup.unlink()
        return said


def _commands() -> set[str]:
    """Return every command of the app, groups with their command."""
    found = set()
    click = typer.main.get_command(app)
    for name, command in click.commands.items():  # type: ignore[attr-defined]
        for inner in getattr(command, "commands", {"": None}):
            found.add(f"{name} {inner}".strip())
    return found


# They have no state, or nothing to do with one; the two that are tested below each step; and what replaces a state.
APART = {"standin", "completion", "notify", "check", "doctor", "state check", "state backup"}


def test_no_command_leaves_a_state_that_counts_as_damaged(
    tmp_path: Path, platform: Standin, script: Script, cli: Cli
) -> None:
    """One state is touched by every command (V01, V02): after each, `state check` and `state backup` end in 0."""
    people = {client: YES if client % 4 else NO for client in range(1, 401)}
    shop = Nightly(tmp_path / "shop", platform.url, cli, delivery="attempts = 1\nlinger_s = 0", report="page = false")
    shop.write(people)
    do = Whole(shop)
    do("init", shop.export, "--platform", "equal", "--no-withdrawals")
    do("opt-out", shop.list(1, 2), "--received-at", "2026-01-01", "--scope", "all", "--request-ref", "R1", codes=(0,))
    do("withdrawals status")
    do("withdrawals report", "--from", "2025-01-01")
    do("withdrawals export", shop.folder / "withdrawals.csv")

    dump = shop.folder / "dump.csv"
    head = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n"
    dump.write_text(head + "".join(f"{client},true,true,true,true\n" for client in people))
    found = json.loads(do("compare", dump, "--json").out)
    assert found["owed_now"] == 2
    do("drain")

    shop.write(people | dict.fromkeys(range(5, 8), NO))
    do("run")
    shop.write(people | dict.fromkeys(range(5, 8), NO) | {9: NO})
    script.faults = {9: Fault.REFUSE}
    do("run")
    script.faults = {}
    do("run", "--retry-refused")
    do("run", "--part", shop.export)
    plan = shop.folder / "plan"
    shop.write(people | dict.fromkeys(range(10, 13), NO))
    do("plan", "-o", plan)
    do("apply", plan)
    do("explain", "10")
    do("history", "10")
    do("try", "11", "--deny", "push")
    do("status")
    do("runs")
    do("report")

    shop.write(people | dict.fromkeys(range(100, 300), NO))
    held = json.loads(do("run", "--json", codes=(6,)).out)
    number = re.match(r"0*(\d+)", held["run"]).group(1)  # type: ignore[union-attr]
    waits = json.loads(do("approve", "--json").out)["held"]
    assert waits
    do("approve", number, "--revocations", waits[0]["revocations"], "--reason", "r", "--by", "me")
    do("run", codes=(0, 1, 6))

    evidence = shop.folder / "evidence.csv"
    today = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 30))
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n1,all,{today},paper,E1\n")
    do("reconsent", evidence, codes=(0,))

    script.faults = {20: Fault.REFUSE, 21: Fault.ERROR_BEFORE}
    taken = do("opt-out", shop.list(20, 22), "--received-at", "2026-01-02", "--scope", "all", "--json", codes=(1, 7))
    do("withdrawals close", "--client", "20", "--reason", "r", "--by", "me")
    do("withdrawals void", "--list", json.loads(taken.out)["list"], "--reason", "r", "--by", "A", "--approved-by", "B")
    do("forget", "--client", "21", codes=(0, 1, 5))
    script.faults = {}
    do("drain", codes=(0, 1))
    do("forget", "--client", "23")

    shop.write(people)
    do("backfill", "--denials", "--sample", "1", codes=(0, 1, 6))
    do("backfill", "--cancel")
    do("backfill", "--check", codes=(0, 1, 6))
    do("backfill", "--denials", codes=(0, 1, 6))
    do("undo", number, "--check", codes=(0, 1, 6))
    do("undo", number, codes=(0, 1, 6))
    do("pause", "--reason", "r", "--by", "me")
    do("resume")
    do("purge")
    do("snapshot show", "1")
    do("snapshot export", shop.folder / "snapshot.csv")
    do("state repair")
    do("backfill", "--cancel", codes=(0, 2))
    shop.config.write_text(shop.config.read_text().replace("127.0.0.1", "localhost"))
    elsewhere = platform.url.replace("127.0.0.1", "localhost")
    do("state retarget", elsewhere, "--same-platform", "--reason", "r", "--by", "me")
    if "state renumber" in _commands():
        (shop.folder / "map.csv").write_text("old_id,new_id\n30,1030\n")
        do("state renumber", shop.folder / "map.csv", "--reason", "r", "--by", "me")

    kept = shop.folder / "kept.tar"
    assert shop.run("state", "backup", kept).code == 0
    (shop.folder / "state").rename(shop.folder / "lost")
    do("state restore", kept)
    do("drain")
    do("state restored", "--none", "--by", "me")
    do("run", codes=(0, 1, 6))
    missing = _commands() - do.used - APART
    assert not missing, f"commands that are not in this test: {sorted(missing)}"


def _minutes_ago(minutes: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60 * minutes))


@pytest.mark.parametrize("others", [(2,), ()])
def test_a_list_that_evidence_has_outdone_leaves_the_state_whole(
    tmp_path: Path, platform: Standin, cli: Cli, others: tuple[int, ...]
) -> None:
    """A row older than the evidence that lifted another binds nobody, whoever is in the list beside it."""
    shop = Nightly(tmp_path / "shop", platform.url, cli)
    shop.write(dict.fromkeys(range(1, 41), YES))
    do = Whole(shop)
    do("init", shop.export, "--platform", "equal", "--no-withdrawals")
    do("opt-out", shop.list(1), "--received-at", _minutes_ago(2), "--scope", "all")
    evidence = shop.folder / "evidence.csv"
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n1,all,{_minutes_ago(1)},form,E1\n")
    do("reconsent", evidence)
    do("opt-out", shop.list(1, *others), "--received-at", _minutes_ago(60), "--scope", "all")
    assert shop.told("withdrawals", "status")["lists"][0]["superseded"] == 1
    assert do("state repair").code == 0
    assert do("run").code == 0
    for client in others:
        assert holds(platform.platform)[client] == NO


@pytest.mark.parametrize("seed", range(4))
def test_lists_evidence_and_void_lists_in_any_order_leave_the_state_whole(
    tmp_path: Path, platform: Standin, cli: Cli, seed: int
) -> None:
    """Few people, all channels or some, received in any order: after each command `state check` ends in 0."""
    chance = random.Random(seed)
    shop = Nightly(tmp_path / "shop", platform.url, cli, report="page = false")
    shop.write(dict.fromkeys(range(1, 41), YES))
    do = Whole(shop)
    do("init", shop.export, "--platform", "equal", "--no-withdrawals")
    for step in range(14):
        clients = chance.sample(range(1, 5), chance.randint(1, 3))
        channels = chance.choice(["all", "all", "sms", "sms,email"])
        when = _minutes_ago(chance.randint(1, 60))
        kind = chance.choice(["list", "list", "evidence", "void"])
        if kind == "list":
            path = shop.list(*clients, name=f"{step}.csv")
            do("opt-out", path, "--received-at", when, "--scope", channels, "--request-ref", f"R{step}")
        elif kind == "evidence":
            path = shop.folder / f"{step}.csv"
            rows = "".join(f'{client},"{channels}",{when},form,E{step}\n' for client in clients)
            path.write_text(f"Client,channels,granted_at,method,evidence_ref\n{rows}")
            do("reconsent", path)
        elif lists := [one for one in shop.told("withdrawals", "status")["lists"] if not one["voided"]]:
            digest = chance.choice(lists)["digest"]
            do("withdrawals void", "--list", digest, "--reason", "r", "--by", "A", "--approved-by", "B")


# ---- a full disk is a full disk


def test_a_full_disk_is_no_damage(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """12 kB left (M03): exit 4, "make room", and never a backup or `init`; with room, the next run sends all of it."""
    people = dict.fromkeys(range(1, 400), NO)
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        shop = Nightly(tmp_path / "shop", platform.url, cli, guards=NO_GUARDS)
        text = shop.config.read_text()
        for name in ("state", "keys"):
            text = text.replace(f"{shop.folder}/{name}", str(disk / name))
        shop.config.write_text(text)
        shop.write(people)
        assert shop.run("init", shop.export, "--platform", "unknown", "--no-withdrawals").code == 0
        for left in (40_960, 28_672, 20_480, 12_288, 8_192, 4_096, 0):
            filler = disk / "filler"
            filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))
            for command in ("run", "drain"):
                said = shop.run(command)
                assert said.code in (0, 4), said
                if said.code:
                    assert "make room" in said.err, (left, said.err)
                    assert "init" not in said.err.replace("initial", "")
                    assert "damaged" not in said.err
            filler.unlink()
            assert shop.run("state", "check").code in (0, 1)
        assert shop.run("run").code in (0, 1)
        assert holds(platform.platform) == people
        assert shop.run("state", "check").code == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "make room"),
        (sqlite3.SQLITE_IOERR, "Look at the machine|look at the machine"),
        (sqlite3.SQLITE_IOERR_WRITE, "look at the machine"),
        (sqlite3.SQLITE_READONLY, "disk|mode"),
        (sqlite3.SQLITE_CANTOPEN, "disk|mode"),
    ],
)
@pytest.mark.parametrize("seam", [files.storing, files.loading])
def test_what_the_system_refuses_is_no_damage(
    tmp_path: Path, seam: Callable[[Path], object], code: int, words: str
) -> None:
    """Whatever SQLite calls it, reading or writing: the file's name, what to do, and the state is kept."""
    refused = sqlite3.OperationalError("disk I/O error")
    refused.sqlite_errorcode = code
    with pytest.raises(StorageError, match=words) as raised, seam(tmp_path / "journal.db"):  # type: ignore[attr-defined]
        raise refused
    assert "journal.db" in str(raised.value)


def test_an_error_of_sqlite_is_held_against_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota that is used up is told apart by a write of our own: statvfs does not know of it."""

    def refuse(path: object, flags: int, mode: int = 0o777, **more: object) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "open", refuse)
    refused = sqlite3.OperationalError("disk I/O error")
    refused.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    with pytest.raises(StorageError, match="quota"), files.loading(tmp_path / "journal.db"):
        raise refused


def test_a_file_that_ends_too_early_is_damage(tmp_path: Path) -> None:
    """SQLite calls that an I/O error as well; with room on the disk it is the file."""
    refused = sqlite3.OperationalError("disk I/O error")
    refused.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHORT_READ
    with pytest.raises(StateDamagedError), files.loading(tmp_path / "journal.db"):
        raise refused


# ---- several brands


def _brands(tmp_path: Path, platform: Standin, cli: Cli, count: int = 3) -> list[Nightly]:
    (tmp_path / "configs").mkdir()
    made = []
    for name in "abcdef"[:count]:
        one = Nightly(tmp_path / name, platform.url, cli, config=tmp_path / "configs" / f"{name}.toml")
        one.write(dict.fromkeys((1, 2, 3), YES))
        assert one.run("init", one.export, "--platform", "equal", "--no-withdrawals").code == 0
        made.append(one)
    return made


LIST = ("--received-at", "2026-01-01", "--scope", "all")


@pytest.mark.parametrize("how", ["damaged", "missing", "no inbox"])
def test_one_broken_brand_keeps_no_other_from_an_opt_out(tmp_path: Path, platform: Standin, cli: Cli, how: str) -> None:
    """The second of three is broken (M30): the others take the list in and send it; it is named, and exit 4 stays."""
    brands = _brands(tmp_path, platform, cli)
    state = brands[1].folder / "state"
    if how == "damaged":
        (state / "ledger.db").write_bytes(b"nothing")
    elif how == "missing":
        shutil.rmtree(state)
    else:
        (state / "inbox").rmdir()
    path = brands[0].list(1)
    said = cli("opt-out", path, *LIST, "-c", tmp_path / "configs", "--json")
    assert said.code == 4, said
    found = json.loads(said.out)["targets"]
    assert sorted(one["exit"] for one in found) == [0, 0, 4]
    (broken,) = (one for one in found if one["exit"])
    assert str(brands[1].folder) in broken["error"]
    for one in (brands[0], brands[2]):
        report = one.told("withdrawals", "report", "--from", "2020-01-01")
        assert (report["received"], report["acknowledged"]) == (1, 1)
    shown = cli("opt-out", path, *LIST, "-c", tmp_path / "configs")
    assert shown.code == 4
    assert "is taken in" in shown.out


def test_a_large_list_is_confirmed_before_any_brand_takes_it_in(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """With one brand broken as well: without the number nothing lies in any inbox, and nothing is sent."""
    brands = _brands(tmp_path, platform, cli)
    (brands[1].folder / "state" / "ledger.db").write_bytes(b"nothing")
    path = brands[0].list(*range(1, 1502))
    said = cli("opt-out", path, *LIST, "-c", tmp_path / "configs")
    assert said.code == 2, said
    assert not any(inbox.waiting(one.folder / "state") for one in (brands[0], brands[2]))
    assert len(holds(platform.platform)) == 0
    assert cli("opt-out", path, *LIST, "--expect", "1501", "-c", tmp_path / "configs", "--json").code == 4
    assert len(holds(platform.platform)) == 1501


@pytest.mark.parametrize(
    "command",
    [
        ("opt-out", "{list}", *LIST, "--check"),
        ("drain",),
        ("withdrawals", "status"),
        ("withdrawals", "report", "--from", "2020-01-01"),
        ("withdrawals", "void", "--list", "{digest}", "--reason", "r", "--by", "A", "--approved-by", "B"),
        ("reconsent", "{evidence}"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_broken_brand_is_named_and_the_others_are_served(
    tmp_path: Path, platform: Standin, cli: Cli, command: tuple[str, ...]
) -> None:
    """Of each command that takes several configurations: what the others say is there, and the exit code is 4."""
    brands = _brands(tmp_path, platform, cli, 2)
    path = brands[1].list(1)
    digest = json.loads(cli("opt-out", path, *LIST, "-c", tmp_path / "configs", "--json").out)["targets"][0]["list"]
    evidence = tmp_path / "evidence.csv"
    evidence.write_text("Client,channels,granted_at,method,evidence_ref\n1,all,2026-02-01,paper,E1\n")
    (brands[0].folder / "state" / "ledger.db").write_bytes(b"nothing")
    given = [one.format(list=path, digest=digest, evidence=evidence) for one in command]
    said = cli(*given, "-c", tmp_path / "configs", "--json")
    assert said.code == 4, said
    found = json.loads(said.out)["targets"]
    assert len([one for one in found if one.get("error")]) == 1
    assert len(found) == 2


COMMANDS = {
    "opt-out": ("{list}", *LIST),
    "opt-out --check": ("{list}", *LIST),
    "reconsent": ("{evidence}",),
    "drain": ("--wait-s", "0"),
    "withdrawals status": (),
    "withdrawals report": ("--from", "2020-01-01"),
    "withdrawals close": ("--client", "1", "--reason", "r", "--by", "me"),
    "withdrawals void": ("--list", "abc", "--reason", "r", "--by", "A", "--approved-by", "B"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_all_broken_names_each(tmp_path: Path, platform: Standin, cli: Cli, name: str) -> None:
    """Nothing is taken in or done anywhere: standard error, or the object, has the error of each; the code is 4."""
    brands = _brands(tmp_path, platform, cli, 2)
    evidence = tmp_path / "evidence.csv"
    evidence.write_text("Client,channels,granted_at,method,evidence_ref\n1,all,2026-02-01,paper,E1\n")
    path = brands[0].list(1)
    (brands[0].folder / "state" / "ledger.db").write_bytes(b"nothing")
    shutil.rmtree(brands[1].folder / "state")
    command = [*name.split(), *(one.format(list=path, evidence=evidence) for one in COMMANDS[name])]
    said = cli(*command, "-c", tmp_path / "configs")
    assert said.code == 4, said
    for one, why in zip(brands, ("damaged", "no state"), strict=True):
        assert re.search(rf"{one.folder}/state.*{why}", said.out + said.err), said
    found = json.loads(cli(*command, "-c", tmp_path / "configs", "--json").out)["targets"]
    assert [one["exit"] for one in found] == [4, 4]
    assert all(one["error"] for one in found)


def test_a_brand_that_is_paused_is_named_beside_one_that_owes_nothing(
    tmp_path: Path, platform: Standin, cli: Cli
) -> None:
    """What a paused brand has in its inbox is not "nothing": each is named, and the code is that of the pause."""
    brands = _brands(tmp_path, platform, cli, 2)
    configs = ("-c", tmp_path / "configs")
    brands[1].run("pause", "--reason", "repairs", "--by", "me")
    taken = json.loads(cli("opt-out", brands[0].list(1), *LIST[2:], *_now(), *configs, "--json").out)["targets"]
    digest = taken[0]["list"]
    close = ("withdrawals", "close", "--client", "1", "--reason", "r", "--by", "me", *configs)
    void = ("withdrawals", "void", "--list", digest, "--reason", "r", "--by", "A", "--approved-by", "B", *configs)
    said = cli(*close)
    assert (said.code, "Nothing is owed to client 1" in said.err, "repairs" in said.err) == (75, True, True), said
    assert [one["exit"] for one in json.loads(cli(*close, "--json").out)["targets"]] == [2, 75]
    said = cli(*void)
    assert (said.code, "is void" in said.out, "repairs" in said.out) == (75, True, True), said
    assert [one.get("exit") for one in json.loads(cli(*void, "--json").out)["targets"]] == [None, 75]
    brands[1].run("resume")
    for since in (1, 2):
        said = cli(*void)
        assert (said.code, said.out.count(" since ")) == (0, since), said
    said = cli(*(one if one != "r" else "another reason" for one in void))
    assert (said.code, said.err.count("void already: A and B said so, r")) == (2, 2), said
    (brands[1].folder / "state" / "ledger.db").write_bytes(b"nothing")
    said = cli(*close)
    assert (said.code, "Nothing is owed" in said.err, "damaged" in said.err) == (4, True, True), said


def _now() -> tuple[str, str]:
    return "--received-at", _minutes_ago(1)


# ---- a backfill that dies near its end


@pytest.mark.parametrize("rows", [10, 40, 63])
def test_a_backfill_that_dies_near_its_end_is_not_done(
    tmp_path: Path, platform: Standin, cli: Cli, process: Commands, rows: int
) -> None:
    """Fewer than 64 rows are left (B12): all of them are in doubt, `status` and `--cancel` say so, a run sends them."""
    shop = Nightly(tmp_path / "shop", platform.url, cli, guards=NO_GUARDS, delivery="linger_s = 0")
    shop.write(dict.fromkeys(range(1, rows + 1), NO))
    assert shop.run("init", shop.export, "--platform", "equal", "--no-withdrawals").code == 0
    given = ("backfill", str(shop.export), "--config", str(shop.config))
    kept = tmp_path / "kept"
    shutil.copytree(shop.folder, kept)
    steps = process.run(shop.folder, *given).steps
    marks = [n for n, one in enumerate(steps, 1) if one.path.endswith("journal.db") and one.name == "COMMIT"]
    shutil.rmtree(shop.folder)
    shutil.copytree(kept, shop.folder)
    assert process.run(shop.folder, *given, at=marks[1]).code is None
    # The next drain folds what the dead run left: it may send nothing, and must not end the backfill.
    assert shop.run("drain").code in (0, 1)
    open_ = shop.told("status")["backfill"]
    with closing(sqlite3.connect(shop.folder / "state" / "ledger.db")) as db:
        ended = db.execute("SELECT how FROM backfills").fetchall()
    assert open_ is not None, ended
    assert open_["left"] == rows
    shutil.copytree(shop.folder, tmp_path / "before")
    cancelled = shop.told("backfill", "--cancel")
    assert cancelled["left"] == rows
    assert cancelled["taken_back"] + cancelled["in_doubt"] == rows
    again = shop.run("backfill", "--cancel")
    assert (again.code, "cancelled already" in again.err) == (2, True)
    assert shop.run("run").code in (0, 1)
    assert len(holds(platform.platform)) >= cancelled["in_doubt"]
    shutil.rmtree(shop.folder)
    shutil.copytree(tmp_path / "before", shop.folder)
    assert shop.run("run").code in (0, 1)
    assert set(holds(platform.platform)) == set(range(1, rows + 1))
    assert shop.told("status")["backfill"] is None


# ---- commands that died are given again


@dataclass(frozen=True)
class Half:
    """A command that dies at each durable step and is given again: how it may end then, and what must be so after."""

    command: tuple[str, ...]
    prepare: Callable[[Nightly, Script], None]
    holds: Callable[[Nightly], None]
    codes: tuple[int, ...] = (0, 1)
    said: str = ""  # what it says if it was done already, and ends in another code
    every: int = 1
    after: tuple[str, ...] = ("drain",)
    fates: dict[int, Fault] = field(default_factory=dict)


def _opted_out(shop: Nightly, script: Script) -> None:
    assert shop.opt_out(1, 2, request_ref="R1").code == 0


def _dumped(shop: Nightly, script: Script) -> None:
    _opted_out(shop, script)
    head = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n"
    (shop.folder / "dump.csv").write_text(head + "".join(f"{client},true,true,true,true\n" for client in range(1, 9)))


def _obligations(shop: Nightly, where: str) -> int:
    with closing(sqlite3.connect(shop.folder / "state" / "ledger.db")) as db:
        query = f"SELECT count(*) FROM obligations WHERE {where}"  # noqa: S608 - our own words
        return int(db.execute(query).fetchone()[0])


def _compared(shop: Nightly) -> None:
    assert _obligations(shop, "source = 'compare'") == 2
    assert shop.told("withdrawals", "status")["open"] == 0


def _erased(shop: Nightly) -> None:
    with closing(sqlite3.connect(shop.folder / "state" / "ledger.db")) as db:
        assert db.execute("SELECT count(*) FROM forgetting").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM obligations WHERE client = 5").fetchone() == (0,)
    assert shop.told("explain", "5", shop.export)["forgotten"] is not None


def _evidence(shop: Nightly, script: Script) -> None:
    _opted_out(shop, script)
    recent = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))
    (shop.folder / "evidence.csv").write_text(
        f"Client,channels,granted_at,method,evidence_ref\n1,all,{recent},paper,E1\n"
    )


def _lifted(shop: Nightly) -> None:
    with closing(sqlite3.connect(shop.folder / "state" / "ledger.db")) as db:
        assert db.execute("SELECT client FROM withdrawals WHERE in_force != 0").fetchall() == [(2,)]
        assert db.execute("SELECT count(*) FROM reconsents").fetchone() == (1,)


def _held(shop: Nightly, script: Script) -> None:
    shop.write({client: NO if client > 100 else YES for client in range(1, 401)})
    assert shop.run("run").code == 6


def _approved(shop: Nightly) -> None:
    with closing(sqlite3.connect(shop.folder / "state" / "ledger.db")) as db:
        assert db.execute("SELECT count(*) FROM approvals").fetchone() == (1,)


def _void(shop: Nightly) -> None:
    with closing(sqlite3.connect(shop.folder / "state" / "ledger.db")) as db:
        assert db.execute("SELECT count(*) FROM withdrawals WHERE in_force != 0").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM lists WHERE voided IS NOT NULL").fetchone() == (1,)


def _refused(shop: Nightly, script: Script) -> None:
    script.faults = {1: Fault.REFUSE}
    assert shop.opt_out(1).code == 1
    script.faults = {}


def _closed(shop: Nightly) -> None:
    assert _obligations(shop, "ended = 'by hand'") == 1
    assert _obligations(shop, "owed != 0") == 0


def _backed_up(shop: Nightly, script: Script) -> None:
    _opted_out(shop, script)
    assert shop.run("state", "backup", shop.folder / "kept.tar").code == 0
    shop.write({client: YES if client != 7 else NO for client in range(1, 9)})
    assert shop.run("run").code == 0
    shutil.rmtree(shop.folder / "state")


def _put_back(shop: Nightly, script: Script) -> None:
    _backed_up(shop, script)
    assert shop.run("state", "restore", shop.folder / "kept.tar").code == 0


def _is_restored(shop: Nightly) -> None:
    assert shop.told("withdrawals", "status")["restored"] != ""


def _is_whole(shop: Nightly) -> None:
    assert shop.told("withdrawals", "status")["restored"] == ""


def _nothing(shop: Nightly, script: Script) -> None:
    """Leave the shop as it was made."""


def _is_paused(shop: Nightly) -> None:
    assert shop.run("drain").code == 75
    assert shop.run("resume").code == 0


def _backfilled(shop: Nightly, script: Script) -> None:
    shop.write(dict.fromkeys(range(1, 9), NO))
    assert shop.run("run").code == 0
    assert shop.run("backfill", "--limit", "2").code == 1


def _is_cancelled(shop: Nightly) -> None:
    assert shop.told("status")["backfill"] is None
    shop.run("run")
    assert not list((shop.folder / "state" / "backfills").iterdir())


def _without_state(shop: Nightly, script: Script) -> None:
    shutil.rmtree(shop.folder / "state")
    shutil.rmtree(shop.folder / "keys")
    shop.list(1)


def _is_made(shop: Nightly) -> None:
    assert shop.told("withdrawals", "report", "--from", "2020-01-01")["received"] == 1
    assert _obligations(shop, "owed != 0") == 0


def _elsewhere(shop: Nightly, script: Script) -> None:
    _opted_out(shop, script)
    shop.config.write_text(shop.config.read_text().replace("127.0.0.1", "localhost"))


def _is_elsewhere(shop: Nightly) -> None:
    anchors = list((shop.folder / "keys").glob("*.anchor.json"))
    assert len(anchors) == 2, "that of the new address, and the old one's, which says where the state has gone"
    assert "localhost" in shop.told("withdrawals", "status")["target"]


def _erased_before(shop: Nightly, script: Script) -> None:
    _opted_out(shop, script)
    assert shop.run("forget", "--client", "5", "--reason", "asked", "--by", "DPO").code == 0


def _is_elsewhere_at_last(shop: Nightly) -> None:
    said = shop.run("state", "check")
    assert said.code == 4, said
    assert 'Set [endpoint] base_url = "http://localhost' in said.out
    assert {line.split()[0] for line in said.out.splitlines()[:-2]} <= {"ok", "orphan"}, said.out
    assert "Damage" not in said.out
    assert shop.run("state", "backup", shop.folder / "moved.tar").code == 0
    assert shop.run("run").code == 4, "until the configuration is mended"
    shop.config.write_text(shop.config.read_text().replace("127.0.0.1", "localhost"))
    _is_elsewhere(shop)
    codes = list((shop.folder / "keys").glob("*.tombstones")) + list((shop.folder / "keys").glob("*.withdrawn"))
    assert len(codes) == 2, "nothing but the note of the move is left under the old name"


RECEIVED = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
HALVES = {
    "compare": Half(("compare", "{shop}/dump.csv"), _dumped, _compared),
    "forget": Half(("forget", "--client", "5"), _nothing, _erased, every=9),
    "reconsent": Half(("reconsent", "{shop}/evidence.csv"), _evidence, _lifted, codes=(0,)),
    "approve": Half(
        ("approve", "{held}", "--revocations", "300", "--reason", "r", "--by", "me"), _held, _approved, codes=(0,),
        after=("status",),
    ),
    "void": Half(
        ("withdrawals", "void", "--list", "{digest}", "--reason", "r", "--by", "A", "--approved-by", "B"), _opted_out,
        _void, codes=(0,), said="",
    ),
    "close": Half(
        ("withdrawals", "close", "--client", "1", "--reason", "gone", "--by", "DPO"), _refused, _closed, codes=(0,),
    ),
    "retarget": Half(
        ("state", "retarget", "{elsewhere}", "--same-platform", "--reason", "r", "--by", "me"), _elsewhere,
        _is_elsewhere, codes=(0,),
    ),
    "retarget, with the old address": Half(
        ("state", "retarget", "{elsewhere}", "--same-platform", "--reason", "r", "--by", "me"), _erased_before,
        _is_elsewhere_at_last, codes=(0,), after=("check",), every=2,
    ),
    "restore": Half(
        ("state", "restore", "{shop}/kept.tar"), _backed_up, _is_restored, codes=(0, 4), said="into place here already",
        every=3,
    ),
    "restored": Half(
        ("state", "restored", "--none", "--by", "me"), _put_back, _is_whole, codes=(0, 2), said="has said already",
        every=2,
    ),
    "pause": Half(
        ("pause", "--reason", "r", "--by", "me"), _nothing, _is_paused, codes=(0, 2), said="paused already by me",
        after=("status",),
    ),
    "backfill --cancel": Half(
        ("backfill", "--cancel"), _backfilled, _is_cancelled, codes=(0, 2), said="cancelled already", every=2
    ),
    "init": Half(
        ("init", "{shop}/export.csv", "--platform", "equal", "--withdrawals", "{shop}/opt-outs.csv", "--received-at",
         RECEIVED, "--scope", "all"), _without_state, _is_made, codes=(0, 4), said="there is state already", every=7,
    ),
    "purge": Half(("purge",), _opted_out, lambda shop: None, codes=(0,)),
}  # fmt: skip


@pytest.mark.parametrize("name", HALVES)
def test_a_command_that_died_can_be_given_again(
    tmp_path: Path, platform: Standin, cli: Cli, script: Script, process: Commands, name: str
) -> None:
    """Whatever the step at which it died: given again it ends well, or says that it was done, and it was done once."""
    half = HALVES[name]
    shop = Nightly(tmp_path / "shop", platform.url, cli, delivery="linger_s = 0\nattempts = 1", report="page = false")
    shop.write(dict.fromkeys(range(1, 401 if name == "approve" else 9), YES))
    assert shop.run("init", shop.export, "--platform", "equal", "--no-withdrawals").code == 0
    half.prepare(shop, script)
    ready = (shop.folder / "state").exists() and not name.startswith("retarget")
    lists = shop.told("withdrawals", "status")["lists"] if ready else []
    held = shop.told("approve")["held"] if ready else []
    names = {
        "shop": shop.folder,
        "digest": lists[0]["digest"][:12] if lists else "",
        "held": held[0]["run"] if held else "",
        "elsewhere": platform.url.replace("127.0.0.1", "localhost"),
    }
    given = [one.format(**names) for one in half.command]
    kept = tmp_path / "kept"
    shutil.copytree(shop.folder, kept)
    at, done = 1, False
    while not done:
        shutil.rmtree(shop.folder)
        shutil.copytree(kept, shop.folder)
        died = process.run(shop.folder, *given, "--config", str(shop.config), at=at)
        done = died.code is not None
        again = process.run(shop.folder, *given, "--config", str(shop.config))
        where = f"{name}, died at operation {at}: {died.steps[-1] if died.steps else ''}: {again.said}"
        assert again.code in half.codes, where
        if again.code == half.codes[-1] and half.said:
            assert half.said in again.said, where
        assert shop.run(*half.after).code in (0, 1), where
        half.holds(shop)
        checked = shop.run("state", "check")
        assert checked.code == 0 or "orphan" in checked.out, (where, checked.out)
        at += half.every
    assert at > 1


def test_closing_again_by_other_words_is_no_closing_again(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """The same reason and person: 0, with the time. Others: 2, with what was said, for nothing was done for them."""
    shop = Nightly(tmp_path / "shop", platform.url, cli)
    shop.write(dict.fromkeys(range(1, 9), YES))
    assert shop.run("init", shop.export, "--platform", "equal", "--no-withdrawals").code == 0
    path = tmp_path / "list.csv"
    path.write_text("Client\n1\n")
    words = ("--received-at", RECEIVED, "--scope", "all", "--basis", "objection", "--no-send")
    assert shop.run("opt-out", path, *words).code == 0
    close = ("withdrawals", "close", "--client", "1", "--reason", "gone", "--by", "DPO")
    assert "1 obligation at" in shop.run(*close).out
    said = shop.run(*close)
    assert (said.code, "closed by hand before, at " in said.out) == (0, True), said
    for others in ((*close[:-1], "another"), (*close[:5], "moved", *close[6:])):
        said = shop.run(*others)
        assert (said.code, "DPO closed it by hand: gone" in said.err) == (2, True), said
