"""No crash loses or invents consent: a command dies at each of its durable operations, and the next one makes it good.

The suite takes some of the moments, always the same ones; CONSENT_SYNC_TEST_ALL_MOMENTS=1 takes every one, and
`make crash` does so too and writes the table of docs/state.md. What is expected is a plain dictionary.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from sync_job.consent import channels
from sync_job.ledger import inbox
from sync_job.runs import erasure, logs
from sync_job.standin.background import Standin, running
from sync_job.standin.contract import Flags, Update
from sync_job.standin.options import Options
from sync_job.standin.platform import Entry
from tests.dying import Commands, Ended, Step, commands
from tests.shop import Consent, People, Shop, holds
from tests.torture import tortured

ALL = os.environ.get("CONSENT_SYNC_TEST_ALL_MOMENTS") == "1"
CONCURRENCY, LATENCY_S = 2, 0.012
# Nothing is sent once more for having been in doubt before a test lets that time pass.
LINGER_S, LATER_S = 300.0, 400.0
YES, NO = (True, True, True, True), (False, False, False, False)
WITHDREW, WITHDRAWS, GONE = 1_700_000_001, 1_700_000_002, 1_987_654_321
CROWD = range(1001, 1033)
STATE_MD = Path(__file__).parent.parent / "docs" / "state.md"

# What the platform holds, and the state knows of it; every channel is held in some way, so that it can be put back.
FIRST: People = {
    **{client: ((client % 2 == 0), (client % 3 == 0), (client % 5 == 0), (client % 7 == 0)) for client in CROWD},
    **dict.fromkeys((WITHDREW, WITHDRAWS, GONE), YES),
}
# Clients whom no export has stated yet, and what the platform holds of them.
STRANGERS: People = {2001 + place: (place % 2 == 0, True, False, place % 2 == 0) for place in range(4)}
# The next export: grants, revocations, denials, channels of which it says nothing, and one who withdrew.
SECOND: People = {
    **{
        client: tuple(None if (client + k) % 6 == 0 else not flag for k, flag in enumerate(FIRST[client]))
        for client in CROWD
    },
    **{client: (place % 2 == 1, False, True, None) for place, client in enumerate(STRANGERS)},
    WITHDREW: (True, True, None, False),
    WITHDRAWS: YES,
    GONE: YES,
}


def overlaid(*stated: People) -> People:
    """Return what is held after these statements, each channel as it was last stated."""
    held: People = {}
    for one in stated:
        for client, flags in one.items():
            before = held.get(client, (None,) * 4)
            held[client] = tuple(old if new is None else new for old, new in zip(before, flags, strict=True))
    return held


BEFORE = overlaid(STRANGERS, FIRST, {WITHDREW: (False, None, None, None)})
AFTER_RUN = overlaid(BEFORE, SECOND, {WITHDREW: (False, None, None, None)})


class Shopping(NamedTuple):
    """A shop at one moment, with its platform and the process that runs its commands."""

    shop: Shop
    platform: Standin
    commands: Commands

    def run(self, *arguments: str, at: int = 0, how: str = "die", later_s: float = 0.0) -> Ended:
        """Run a command on this shop."""
        config = ("--config", str(self.shop.config), *(("--quiet",) if arguments[0] != "purge" else ()))
        given = (one.format(folder=self.shop.folder) for one in arguments)
        return self.commands.run(self.shop.folder, *given, *config, at=at, how=how, later_s=later_s)


def _first(here: Shopping) -> None:
    """Make the state as it is before the night: one withdrew by SMS, and the platform knows."""
    shop = here.shop
    shop.write(FIRST)
    shop.init("equal")
    shop.withdraw({WITHDREW: "sms"})
    assert here.run("drain").code == 0
    shop.write(SECOND)


def _died(here: Shopping) -> None:
    """Let a run die when some of its outcomes are durable and some are not."""
    _first(here)
    kept = here.shop.folder.with_name("before")
    shutil.copytree(here.shop.folder, kept)
    for at in range(30, 50):
        dry = here.run("run", at=at)
        assert dry.code is None, "it ended, and never had some outcomes and not all"
        if dry.last.path.endswith("journal.db") and 4 < len(acknowledged(here.shop.folder)) < len(SECOND) - 8:
            return
        shutil.rmtree(here.shop.folder)
        shutil.copytree(kept, here.shop.folder)
    raise AssertionError("no death left some outcomes and not all")


def acknowledged(folder: Path) -> dict[int, tuple[bool | None, ...]]:
    """Return whose row is durably known to be delivered, and what it stated, by the plans and journals of dead runs."""
    found: dict[int, tuple[bool | None, ...]] = {}
    for plan in folder.glob("state/runs/*/*/plan.parquet"):
        rows = pq.read_table(plan)
        clients, sent = rows.column("Client").to_pylist(), rows.column("Sent").to_pylist()
        with tempfile.TemporaryDirectory() as scratch:  # who reads a journal may change it
            for path in plan.parent.glob("journal.db*"):
                shutil.copy(path, scratch)
            with closing(sqlite3.connect(Path(scratch) / "journal.db")) as db:
                if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'settled'").fetchone():
                    settled = db.execute("SELECT row FROM settled WHERE outcome = 1 AND doubt = 0").fetchall()
                    found |= {clients[row]: channels.flags(sent[row]) for (row,) in settled}
    return found


def _listed(here: Shopping) -> None:
    _first(here)
    here.shop.listing({WITHDRAWS: "marketing"})


def _in_the_inbox(here: Shopping) -> None:
    _listed(here)
    assert here.run(*OPT_OUT, "--no-send").code == 0


def _known_everywhere(here: Shopping) -> None:
    """Have the client who is to be erased in plan, results and lists of a run, and in the withdrawals."""
    _first(here)
    here.shop.withdraw({GONE: "sms"})
    assert here.run("run").code == 0


# The same time each time it is said: a list that says another is another list.
RECEIVED = datetime.now(UTC).isoformat(timespec="seconds")
FORGET = ("forget", "--client", str(GONE), "--reason", "asked by letter", "--by", "Ann")
OPT_OUT = ("opt-out", "{folder}/opt-outs.csv", "--received-at", RECEIVED, "--wait-s", "0")


def _again(here: Shopping, command: Sequence[str]) -> Ended:
    return here.run(*command)


def _taken_in(here: Shopping, command: Sequence[str]) -> Ended:
    """Drain, where the list was taken in: nobody needs to say it twice. Else say it again."""
    with here.shop.state() as state:
        known = len(state.ledger.withdrawals.clients()) > 1
    return here.run(*(("drain",) if known or inbox.waiting(here.shop.settings.state.path) else command))


def _erased(here: Shopping, command: Sequence[str]) -> Ended:
    """Drain, where it was noted who is to be erased; else ask again."""
    with here.shop.state() as state:
        asked = GONE in state.ledger.forgetting.asked()
    asked |= bool(erasure.tombstones(here.shop.settings).of(np.array([GONE], np.int32)).any())
    return here.run(*(("drain",) if asked else command))


def _lost_by_the_platform(here: Shopping) -> None:
    """Let the platform forget denials that it had acknowledged."""
    _first(here)
    assert here.run("run").code == 0
    for client in tuple(CROWD)[::2]:
        flags = (True if flag is False else None for flag in SECOND[client])
        here.platform.platform.apply(Update(client, Flags(*flags)))


def _carried_on(here: Shopping, command: Sequence[str]) -> Ended:
    """Run, where the backfill has made something due: any run carries it on. Else say it again."""
    before = max(int(path.stem) for path in (here.shop.folder.parent / "kept").glob("state/snapshots/*.parquet"))
    with here.shop.state() as state:
        begun = state.ledger.current()[0] > before
    return here.run(*(("run",) if begun else command))


def _reported(here: Shopping) -> None:
    _first(here)
    assert here.run("run").code == 0


def _is_purged(here: Shopping) -> None:
    left = {path.name for path in (here.shop.folder / "reports").glob("*/*")}
    assert left <= {"summary.json", "report.html"}


@dataclass(frozen=True)
class Scenario:
    """A command that may die, on a shop that was prepared, and what the platform must hold when it was made good."""

    command: tuple[str, ...]
    prepare: Callable[[Shopping], None]
    wanted: People
    finish: Callable[[Shopping, Sequence[str]], Ended] = _again
    gone: tuple[int, ...] = ()
    withdrawn: dict[int, Consent] = field(default_factory=lambda: {WITHDREW: (False, None, None, None)})
    later: tuple[str, ...] = ("run",)  # what cron does when nobody lingers any more
    check: Callable[[Shopping], None] | None = None  # what must be so besides
    ahead_s: float = 0.0  # how much later than what was prepared it is
    every: int = 1  # which moments the suite takes: every so manieth, from this one on
    offset: int = 1


MARKETING: People = {WITHDREW: (False, None, None, None), WITHDRAWS: (False, False, False, None)}
SCENARIOS = {
    "a run": Scenario(("run",), _first, AFTER_RUN, every=19, offset=3),
    "a recovery": Scenario(("run",), _died, AFTER_RUN, every=31, offset=5),
    "an opt-out": Scenario(
        OPT_OUT, _listed, overlaid(BEFORE, MARKETING), _taken_in, withdrawn=MARKETING, later=("drain",),
        every=23, offset=7,
    ),
    "a run that finds a list": Scenario(
        ("run",), _in_the_inbox, overlaid(AFTER_RUN, MARKETING), withdrawn=MARKETING, every=31, offset=11
    ),
    "an erasure": Scenario(
        FORGET, _known_everywhere, overlaid(AFTER_RUN, {GONE: NO}), _erased, (GONE,),
        later=("drain",), every=29, offset=9,
    ),
    "a backfill": Scenario(
        ("backfill", "--denials"), _lost_by_the_platform, AFTER_RUN, _carried_on, every=25, offset=13
    ),
    "a purge": Scenario(
        ("purge",), _reported, AFTER_RUN, later=("purge",), check=_is_purged, ahead_s=200 * 86400.0, every=3, offset=1
    ),
}  # fmt: skip


class Found(NamedTuple):
    """What a death, or an error of the disk, came to: in channels, in clients, and in clients."""

    step: str
    lost: int
    invented: int
    twice: int


def step_of(step: Step) -> str:
    """Return what an operation belongs to, in the words of docs/state.md."""
    place = step.path
    if place.startswith("state/runs"):
        if step.name in ("unlink", "rmdir"):
            return "plan and journal removed"
        return "journal" if place.endswith("journal.db") else "plan"
    for beginning, name in (
        ("state/ledger.db", "ledger"),
        ("state/snapshots", "snapshot"),
        ("state/inbox", "inbox"),
        ("state/held", "held"),
        ("reports", "report"),
    ):
        if place.startswith(beginning):
            return name
    if place.startswith("keys"):
        return "tombstones" if ".tombstones" in place else "anchor"
    return "lock and running.json"


def _is_in(stated: Sequence[bool | None], before: Sequence[bool | None]) -> bool:
    """Return whether a request states nothing that one *before* did not."""
    return all(one is None or one == was for one, was in zip(stated, before, strict=True))


class Stage:
    """A scenario, prepared once and put back before each death."""

    def __init__(self, scenario: Scenario, folder: Path, platform: Standin, process: Commands) -> None:
        self.scenario = scenario
        (folder / "shop").mkdir(parents=True, exist_ok=True)
        shop = Shop(folder / "shop", platform.url, concurrency=CONCURRENCY, linger_s=LINGER_S)
        self.here = Shopping(shop, platform, process)
        self._kept = folder / "kept"
        for client, flags in (STRANGERS | FIRST).items():
            platform.platform.apply(Update(client, Flags(*flags)))
        scenario.prepare(self.here)
        self._wait()
        shutil.copytree(shop.folder, self._kept)
        self._held = platform.platform.state

    def put_back(self) -> int:
        """Make shop and platform what they were, and return where the platform's log goes on."""
        platform = self.here.platform.platform
        for client, flags in self._held.items():
            platform.apply(Update(client, flags))
        shutil.rmtree(self.here.shop.folder)
        shutil.copytree(self._kept, self.here.shop.folder)
        return platform.entries

    def _wait(self) -> None:
        """Let what was in flight at a death arrive."""
        platform, before = self.here.platform.platform, -1
        while before != platform.entries:
            before = platform.entries
            time.sleep(4 * LATENCY_S)

    def dies(self, at: int, how: str) -> Found | None:
        """Let the command meet its fate at an operation, make it good, and hold the oracle; none when it met none."""
        place = self.put_back()
        ended = self.here.run(*self.scenario.command, at=at, how=how, later_s=self.scenario.ahead_s)
        if len(ended.steps) < at:
            assert ended.code == 0, ended.said
            return None
        where = f"{how} at operation {at}, {ended.steps[at - 1].name} of {ended.steps[at - 1].path}"
        if how != "die":
            _is_clean(ended, self.here.shop.folder, where)
        self._wait()
        known = acknowledged(self.here.shop.folder)
        middle = self.here.platform.platform.entries
        clean = self.scenario.finish(self.here, self.scenario.command)
        assert clean.code in (0, 1), f"{where}: {clean.said}"
        log = self.here.platform.platform.log
        first, second = log[place:middle], log[middle:]
        later = self.here.run(*self.scenario.later, later_s=LATER_S + self.scenario.ahead_s)
        assert later.code in (0, 1), f"{where}: {later.said}"
        found = Found(
            step_of(ended.steps[at - 1]),
            self._lost(),
            self._invented(self.here.platform.platform.log[place:]),
            len({entry.client for entry in first} & {entry.client for entry in second}),
        )
        assert not found.lost, f"{where}: {self._differences()}"
        assert not found.invented, where
        again = [entry for entry in second if entry.client in known and _is_in(entry.flags, known[entry.client])]
        assert not again, f"{where}: an acknowledged row was sent again"
        assert found.twice <= self._most_twice(ended), where
        self._is_whole(where)
        return found

    def _most_twice(self, ended: Ended) -> int:
        """Return how many rows may be sent twice: those in flight, and those since the last commit began."""
        commits = [step.at_s for step in ended.steps if step.name == "COMMIT" and step.path.endswith("journal.db")]
        begun = [step.at_s for step in ended.steps if step.name == "WAL"]
        if not begun:
            return CONCURRENCY  # of what the death before has left in flight
        # The last one may be the one that it died in.
        since = next((at_s for at_s in reversed(commits[:-1]) if at_s >= begun[-1]), begun[-1])
        return CONCURRENCY + CONCURRENCY * (1 + int((ended.at_s - since) / LATENCY_S))

    def _differences(self) -> list[str]:
        held = holds(self.here.platform.platform)
        return [
            f"{client} has {held.get(client)}, wanted {flags}"
            for client, flags in self.scenario.wanted.items()
            if held.get(client) != flags
        ]

    def _lost(self) -> int:
        """Return how many channels are not what was stated last, by whoever had the right to."""
        held = holds(self.here.platform.platform)
        assert set(held) == set(self.scenario.wanted)
        return sum(
            mine is not wanted
            for client, flags in self.scenario.wanted.items()
            for mine, wanted in zip(held[client], flags, strict=True)
        )

    def _invented(self, log: Sequence[Entry]) -> int:
        """Return how many requests allowed what nobody had stated, or somebody had withdrawn."""
        granted = 0
        for entry in log:
            stated = SECOND.get(entry.client, NO)
            withdrawn = self.scenario.withdrawn.get(entry.client, (None,) * 4)
            granted += any(
                flag and (not said or barred is False)
                for flag, said, barred in zip(entry.flags, stated, withdrawn, strict=True)
            )
        return granted

    def _is_whole(self, where: str) -> None:
        """Hold that nothing of the dead is left, and that the state believes what the platform holds."""
        shop = self.here.shop
        held = holds(self.here.platform.platform)
        with shop.state() as state:
            holdings, runs = state.holdings(), state.ledger.runs()
        assert [run.stage for run in runs] == ["reported"] * len(runs), where
        for run in runs:
            assert (shop.folder / "reports" / run.run / "summary.json").exists(), where
        assert not list((shop.folder / "state" / "runs").iterdir()), where
        assert not inbox.waiting(shop.settings.state.path), where
        for client, one in zip(holdings.client.tolist(), holdings.state.tolist(), strict=True):
            assert client not in self.scenario.gone, where
            for k in range(4):
                if one >> 2 * k & 3:
                    assert held[client][k] is (one >> 2 * k & 3 == 2), f"{where}: the state is wrong of {client}"
        if self.scenario.check:
            self.scenario.check(self.here)
        for client in self.scenario.gone:
            for folder in ("state", "keys", "reports"):
                assert not traces(shop.folder / folder, client), where


def traces(folder: Path, client: int) -> list[Path]:
    """Return the files that have the client, in digits or in the bytes of its id; Parquet is read for that."""
    forms = (str(client).encode(), client.to_bytes(4, "little"), client.to_bytes(4, "big"))
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix == ".parquet":
            has = any(client in column.to_pylist() for column in pq.read_table(path).columns)
        else:
            has = path.is_file() and any(form in path.read_bytes() for form in forms)
        found += [path] if has else []
    return found


CURES = ("make room", "Make room", "look at the machine", "Look at the disk", "Mend or remove")


def _is_clean(ended: Ended, folder: Path, where: str) -> None:
    """Hold that an error of the disk was told as one: with the file and what to do, and never as a bug."""
    assert ended.code is not None, f"{where}: {ended.said}"
    assert "Traceback" not in ended.said, f"{where}: {ended.said}"
    assert ended.code in (0, 1, 4), f"{where}: {ended.code}: {ended.said}"
    if ended.code == 4:
        assert str(folder) in ended.said, f"{where}: {ended.said}"
        assert any(cure in ended.said for cure in CURES), f"{where}: {ended.said}"


HOWS = (("eio",), ("enospc",))


@pytest.fixture(scope="module")
def process() -> Iterator[Commands]:
    """Return what all commands of this file are forked from; each is a process of its own all the same."""
    with commands() as found:
        yield found


def played(name: str, folder: Path, process: Commands, how: str, every: int = 1, offset: int = 1) -> list[Found]:
    """Return what came of every so manieth moment of a scenario, until the command no longer meets one."""
    came: list[Found] = []
    with running(Options(latency_ms=1000 * LATENCY_S)) as platform:
        stage = Stage(SCENARIOS[name], folder, platform, process)
        while found := stage.dies(offset + every * len(came), how):
            came.append(found)
    return came


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder in memory where there is one: this is about the order of durable writes, not about their time."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="crash-", dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_command_that_dies_anywhere_is_made_good(folder: Path, process: Commands, name: str) -> None:
    """Nothing stated is lost, nothing is invented, nothing acknowledged is sent again, and little is sent twice."""
    scenario = SCENARIOS[name]
    found = played(name, folder, process, "die", *((1, 1) if ALL else (scenario.every, scenario.offset)))
    assert len(found) >= 3


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for place, name in enumerate(SCENARIOS) for how in (("eio", "enospc") if ALL else HOWS[place % 2])],
)
def test_an_error_of_the_disk_is_told_and_made_good(folder: Path, process: Commands, name: str, how: str) -> None:
    """Whatever operation the disk refuses: no bug, no lost consent, and the next run does what was left.

    The suite lets each scenario meet one kind of error, `make crash` both.
    """
    scenario = SCENARIOS[name]
    every = 1 if ALL else 2 * scenario.every
    offset = 1 if ALL else scenario.offset + (how == "eio") * scenario.every
    assert played(name, folder, process, how, every, offset)


@pytest.mark.parametrize(
    "place",
    [
        "state",
        "reports",
    ],
)
def test_every_file_is_on_the_disk_before_it_takes_its_place(folder: Path, process: Commands, place: str) -> None:
    """A cut of the power leaves the old file or the whole new one, and what a commit speaks of is there.

    All but what nothing depends on: running.json.
    """
    with running(Options()) as platform:
        for name in ("a run", "a run that finds a list"):
            stage = Stage(SCENARIOS[name], folder / name, platform, process)
            flushed: set[str] = set()
            moved: set[str] = set()  # folders with a name that is not known to be on the disk
            for step in stage.here.run(*SCENARIOS[name].command).steps:
                where = f"{name}: {step.name} of {step.path}"
                if step.path.endswith("running.json") or not step.path.startswith((place, "keys")):
                    continue
                if step.name == "open":
                    flushed.discard(step.path)
                elif step.name == "fsync":
                    flushed.add(step.path)
                    moved.discard(step.path)
                elif step.name == "replace":
                    assert step.source in flushed, where
                    moved.add(str(Path(step.path).parent))
                elif step.name == "COMMIT":
                    assert not moved, f"{where}: {moved} may be as it was"


def test_random_kills_lose_nothing(folder: Path) -> None:
    """A few of what `make torture` does: the wire has its faults, and people withdraw between."""
    rows, kills = 2000, 4
    assert tortured(folder, rows=rows, kills=kills, longest_s=0.8, seed=3).kills == kills


BEGIN, END = "<!-- crashes: written by make crash -->", "<!-- crashes: end -->"
HEAD = "| it dies in | at the step | moments | lost | invented | sent twice, at most |\n|---|---|---|---|---|---|\n"
_DONE = re.compile(r"^\| ([^|]+) \| ([^|]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)


def table(came: dict[str, list[Found]]) -> str:
    """Return the table of what came of the deaths, a line for each step of each scenario."""
    lines = []
    for name, found in came.items():
        for step in dict.fromkeys(one.step for one in found):
            mine = [one for one in found if one.step == step]
            lost, invented = sum(one.lost for one in mine), sum(one.invented for one in mine)
            lines.append(
                f"| {name} | {step} | {len(mine)} | {lost} | {invented} | {max(one.twice for one in mine)} |\n"
            )
    return HEAD + "".join(lines)


def test_the_table_in_the_docs_is_of_these_scenarios() -> None:
    """Each scenario is there with its steps, nothing was lost or invented, and the moments are as many as there are."""
    text = STATE_MD.read_text("utf-8")
    rows = _DONE.findall(text[text.index(BEGIN) : text.index(END)])
    assert list(dict.fromkeys(row[0] for row in rows)) == list(SCENARIOS)
    for row in rows:
        assert row[3:5] == ("0", "0")
        assert int(row[5]) <= len(SECOND)
    for name in ("a run", "a recovery", "an opt-out", "an erasure", "a backfill"):
        assert {"ledger", "journal", "plan", "snapshot", "report", "anchor"} <= {
            row[1] for row in rows if row[0] == name
        }


def _told(name: str, how: str, every: int) -> tuple[str, str, list[Found], str]:
    """Return what came of a scenario, and the first law that did not hold."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="crash-", dir=memory if memory.is_dir() else None) as made:
        try:
            with commands() as process:
                return name, how, played(name, Path(made), process, how, every), ""
        except AssertionError as exc:
            return name, how, [], str(exc)


def main() -> None:
    """Let every scenario die at every moment, and have the disk refuse every operation; print or write the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/state.md")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="this scenario alone")
    parser.add_argument("--every", type=int, default=1, help="every so manieth moment")
    parser.add_argument("--errors", type=int, default=1, help="every so manieth error of the disk; 0 for none")
    wish = parser.parse_args()
    names = wish.only or list(SCENARIOS)
    came: dict[str, list[Found]] = {}
    broken = []
    logs.configure("console", "warning")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        hows = {"die": wish.every, **(dict.fromkeys(("eio", "enospc"), wish.errors) if wish.errors else {})}
        doing = [pool.submit(_told, name, how, every) for how, every in hows.items() for name in names]
        for one in doing:
            name, how, found, why = one.result()
            sys.stderr.write(f"{name}, {how}: {why or f'{len(found)} moments'}\n")
            broken += [why] if why else []
            if how == "die":
                came[name] = found
    sys.stdout.write(table(came))
    if broken:
        sys.exit("a law was broken")
    if wish.write and not wish.only:
        text = STATE_MD.read_text("utf-8")
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        STATE_MD.write_text(f"{before}{BEGIN}\n{table(came)}{after}", "utf-8")


if __name__ == "__main__":
    main()
