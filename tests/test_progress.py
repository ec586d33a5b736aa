"""On a real terminal steps that take a while are drawn, with what is left; elsewhere not one escape code is written."""

import os
import pty
import re
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sync_job.cli import progress
from sync_job.cli.app import app
from sync_job.runs import backups, inspecting, night
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.forked import Forked, ended
from tests.shop import Shop, people

ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def platform() -> Iterator[Standin]:
    """Return a platform that takes a moment for each request."""
    with running(Options(latency_ms=30)) as standin:
        yield standin


@pytest.fixture
def shop(tmp_path: Path, platform: Standin) -> Shop:
    """Return a shop whose state was made."""
    shop = Shop(tmp_path, platform.url, concurrency=2)
    shop.write(people(120))
    shop.init()
    return shop


def on_terminal(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    """Return what a command ended with and wrote to standard error, which is a terminal."""
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "COLORTERM")}
    plain |= {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40"} | environment
    with Forked(*arguments, stderr=theirs, env=plain) as child:
        os.close(theirs)
        said = bytearray()
        try:
            while select.select([ours], [], [], 60)[0]:
                if not (piece := os.read(ours, 65536)):
                    break
                said += piece
        except OSError:
            pass  # Linux says so when the other side is closed
        finally:
            os.close(ours)
    return child.wait(), said.decode()


def drawn(text: str) -> str:
    """Return what is to be read on the terminal, without what moves and colours it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_run_draws_its_stages(shop: Shop) -> None:
    """Reading, deciding, sending with its counts, folding, reporting; and the terminal has its cursor again."""
    code, said = on_terminal("run", "--config", shop.config)
    assert code == 0, said
    for stage in ("opening the state", "reading", "deciding", "sending", "folding", "reporting"):
        assert stage in drawn(said), stage
    assert re.search(r"sending .*\d+/\d+ +\d+%", drawn(said))
    assert re.search(r"\d+ in flight", drawn(said))
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (["state", "check"], ["looking at the state"]),
        (["state", "backup", "b.tar"], ["copying the state"]),
        (["check"], ["reading"]),
        (["snapshot", "export", "out.csv"], ["writing the snapshot"]),
        (["plan"], ["opening the state", "reading", "deciding"]),
        (["explain", "1001"], ["reading", "deciding"]),
        (["history", "1001"], ["reading reports"]),
        (["compare", "export.csv"], ["reading the dump", "comparing"]),
        (["opt-out", "list.csv", "--received-at", "2026-01-01", "--no-send"], ["reading the list", "taking the list"]),
        (["doctor", "--offline"], ["looking at: disk", "looking at: state"]),
        (["purge"], ["removing"]),
    ],
)
def test_other_commands_draw_theirs(shop: Shop, words: list[str], stages: list[str]) -> None:
    """Whatever reads or writes a whole file or state says that it does."""
    (shop.folder / "list.csv").write_text("Client\n1003\n")
    there = {name: str(shop.folder / name) for name in ("b.tar", "out.csv", "list.csv", "export.csv")}
    _, said = on_terminal(*(there.get(word, word) for word in words), "--config", shop.config)
    for stage in stages:
        assert stage in drawn(said), (stage, said)
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


def test_restore_draws_what_it_unpacks(shop: Shop) -> None:
    """In bytes, of how many."""
    backups.backup(shop.settings, shop.folder / "b.tar")
    (shop.folder / "state").rename(shop.folder / "lost")
    code, said = on_terminal("state", "restore", shop.folder / "b.tar", "--config", shop.config)
    assert code == 0, said
    assert "unpacking the backup" in drawn(said)


def test_error_leaves_the_terminal_as_it_was(shop: Shop) -> None:
    """The bar is gone and the cursor back before the message is written."""
    shop.export.write_text("no,export\n1,2\n")
    code, said = on_terminal("run", "--config", shop.config)
    assert code == 3
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    assert "\x1b[?25h" in said[: said.rindex("consent-sync:")]


def test_quiet_draws_nothing(shop: Shop) -> None:
    """Not a byte, on a terminal too."""
    code, said = on_terminal("run", "--quiet", "--config", shop.config)
    assert (code, said) == (0, "")


def test_terminal_that_is_dumb_gets_no_escape_code(shop: Shop) -> None:
    """It could not move its cursor back over a bar."""
    code, said = on_terminal("run", "--config", shop.config, TERM="dumb")
    assert code == 0
    assert ESCAPE not in said


def test_no_color_draws_without_colours(shop: Shop) -> None:
    """The bar is there, and no code of a colour: those of SGR from 30 on."""
    code, said = on_terminal("--log-level", "info", "run", "--config", shop.config, NO_COLOR="1")
    assert code == 0
    assert "sending" in drawn(said)
    assert "run.ended" in drawn(said)
    codes = [int(one) for found in re.findall(r"\x1b\[([0-9;]*)m", said) for one in found.split(";") if one]
    assert [one for one in codes if one >= 30] == []


def test_without_a_terminal_nothing_is_drawn(shop: Shop) -> None:
    """Neither a bar nor an escape code, on either stream."""
    for words in (["run"], ["state", "check"], ["state", "backup", str(shop.folder / "b.tar")], ["doctor"]):
        said = ended(*words, "--config", shop.config, env=os.environ | {"TERM": "xterm-256color", "FORCE_COLOR": ""})
        assert said.returncode == 0, said.stderr
        assert said.stderr == ""
        assert ESCAPE not in said.stdout


def test_every_command_that_draws_can_be_quiet() -> None:
    """Each has `--quiet`, but those that are done at once or run until they are stopped."""
    at_once = {
        *("runs", "report", "status", "pause", "resume", "try", "standin", "completion", "notify", "snapshot show"),
        *("withdrawals status", "withdrawals report", "withdrawals close", "withdrawals void", "state retarget"),
    }
    top = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {one}": said for one, said in inner.items()} if inner else {name: command}
    for name, command in found.items():
        has = any("--quiet" in parameter.opts for parameter in command.params)
        assert has or name in at_once, name


def test_after_its_end_a_watch_tells_other_processes_nothing(tmp_path: Path) -> None:
    """What comes next is another target's, or waits for the lock that somebody else may hold by then."""
    watch = Watch()
    watch.announce(tmp_path, "drain", "0001")
    watch.stage("sending")
    assert "sending" in (tmp_path / "running.json").read_text()
    watch.end()
    watch.stage("opening the state")
    assert "sending" in (tmp_path / "running.json").read_text()


class Told(Watch):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, int | None]] = []

    def at(self, done: int, total: int | None = None, note: str = "", rate: float = 0.0) -> None:
        """Keep how far it is."""
        super().at(done, total, note, rate)
        self.told.append((done, total))


def test_what_is_copied_and_looked_at_is_counted_to_its_end(shop: Shop) -> None:
    """Backup, restore and the look at a state tell bytes that only grow, up to all of them."""
    night.run(shop.settings, Wish(), Watch())
    seen = {name: Told() for name in ("backup", "check", "restore")}
    backups.backup(shop.settings, shop.folder / "b.tar", seen["backup"])
    inspecting.check(shop.settings, seen["check"])
    (shop.folder / "state").rename(shop.folder / "lost")
    backups.restore(shop.settings, shop.folder / "b.tar", seen["restore"])
    for name, one in seen.items():
        assert one.told == sorted(one.told), name
        done, total = one.told[-1]
        assert total is not None
        assert 0 < done <= total, name
        assert name == "check" or done == total


def test_time_left_is_by_the_rate_that_is_told() -> None:
    """A stage that says its rate is believed from the first; one that nobody can tell of says how long it took."""
    bar = progress.Bar()
    try:
        bar.stage("sending", 1000)
        bar.at(100, rate=10.0)
        (task,) = bar._progress.tasks
        assert progress._Left().render(task).plain == "90 s left"
        bar.at(999, rate=10.0)
        assert progress._Left().render(task).plain == "0 s left"
        assert progress._SoFar().render(task).plain == "999/1,000 100%"
        bar.stage("deciding")
        (task,) = bar._progress.tasks
        assert progress._SoFar().render(task).plain == ""
        task.start_time = time.monotonic() - 75
        assert progress._Left().render(task).plain == "for 75 s"
        bar.end()
        bar.stage("again")
        assert bar._progress.live.is_started
    finally:
        bar.end()
    assert not bar._progress.live.is_started
