"""Sequences of commands whose standard streams are closed, full, or read by nobody: each ends as it would have."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli, Said
from tests.forked import Forked
from tests.place import NO, YES, Place

PATIENCE_S = 60.0
CROWD = dict.fromkeys(range(1, 301), YES)


@pytest.fixture
def place(tmp_path: Path, platform: Standin, cli: Cli) -> Place:
    """Return a target of 300 members."""
    found = Place(tmp_path, platform.url, cli)
    found.init(CROWD)
    return found


@contextmanager
def _unread() -> Iterator[int]:
    """Yield a pipe that nobody reads any more."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        yield theirs
    finally:
        os.close(theirs)


@contextmanager
def _full() -> Iterator[int]:
    """Yield a file on a full disk."""
    handle = os.open("/dev/full", os.O_WRONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _written_to(stdout: int, place: Place, *arguments: object) -> Said:
    process = Forked(*arguments, "--config", place.config, stdout=stdout, stderr=subprocess.PIPE)
    _, err = process.communicate(PATIENCE_S)
    assert b"Traceback" not in err
    return Said(process.wait(), "", err.decode())


def _closed(place: Place, *arguments: object, streams: str = "<&-") -> Said:
    """Run a command in a process whose standard *streams* a shell has closed."""
    command = [sys.executable, "-m", "sync_job", *map(str, arguments), "--config", str(place.config)]
    ended = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {streams}', "sh", *command],
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    return Said(ended.returncode, ended.stdout, ended.stderr)


def _hold(place: Place) -> None:
    """Export so many denials that a guard holds them."""
    place.write(CROWD | dict.fromkeys(range(1, 151), NO))


@pytest.mark.parametrize(
    "command", ["run", "run --json", "plan", "plan --json", "runs", "status", "state check", "doctor --offline -q"]
)
def test_a_command_whose_output_nobody_reads_ends_as_with_a_reader(place: Place, command: str) -> None:
    """As with `| head -1` and pipefail: with a guard that held something, and with a damaged ledger."""
    _hold(place)
    for _ in range(2):
        with _unread() as pipe:
            said = _written_to(pipe, place, *command.split())
        assert said.code == place(*command.split()).code
        assert "could not be written" not in said.err
        place.config.write_text(place.config.read_text().replace(str(place.folder / "state"), "/nowhere"))


@pytest.mark.parametrize(("command", "code"), [("run", 6), ("run --json", 6), ("runs", 4), ("status --json", 4)])
def test_output_that_a_full_disk_does_not_take_is_4_and_no_bug(place: Place, command: str, code: int) -> None:
    """A code of its own stands; what was done is done."""
    _hold(place)
    with _full() as disk:
        said = _written_to(disk, place, *command.split())
    assert said.code == code
    assert "standard output could not be written: No space left on device" in said.err
    assert len(place.rows("SELECT * FROM runs")) == (2 if command.startswith("run ") or command == "run" else 1)


def test_a_list_whose_answer_could_not_be_written_is_sent(place: Place, platform: Standin) -> None:
    """The command ends in 4; given again with room it says that all of it was acknowledged."""
    path = place.folder / "list.csv"
    path.write_text("Client\n5\n")
    wish = ("opt-out", path, "--received-at", "2026-01-01", "--scope", "all", "--basis", "objection")
    with _full() as disk:
        assert _written_to(disk, place, *wish).code == 4
    assert platform.platform.state[5] == NO
    assert place(*wish).code == 0


@pytest.mark.parametrize("streams", ["<&-", "<&- >&- 2>&-"])
def test_nobody_can_be_asked_on_a_standard_input_that_is_closed(place: Place, streams: str) -> None:
    """Exit 2 with the number that was to be confirmed, as on one that is empty; nothing was done."""
    people = dict.fromkeys(range(1, 1301), YES)
    path = place.folder / "list.csv"
    path.write_text("Client\n" + "".join(f"{client}\n" for client in people))
    signed = ("--reason", "asked", "--by", "Mira")
    before = place.rows("SELECT * FROM runs")
    for wish, number in (
        (("forget", path, *signed), "--expect 1300"),
        (("opt-out", path, "--received-at", "2026-01-01", "--scope", "all", "--basis", "objection"), "--expect 1300"),
        (("backfill", "--all"), "--approve-grants 300"),
    ):
        said = _closed(place, *wish, streams=streams)
        assert said.code == 2
        assert number in said.err or "2>" in streams
    assert place.rows("SELECT * FROM runs") == before
    (place.folder / "fresh").mkdir()
    fresh = Place(place.folder / "fresh", place.url, place.cli)
    fresh.write(people)
    said = _closed(fresh, "init", fresh.export, "--platform", "empty", "--no-withdrawals", streams=streams)
    assert said.code == 2
    assert "--approve-grants 1300" in said.err or "2>" in streams


def test_an_export_on_a_standard_input_that_is_closed_is_empty(place: Place) -> None:
    """Exit 3, as on one that ends at once."""
    assert {_closed(place, "run", "-", streams=streams).code for streams in ("<&-", "</dev/null")} == {3}


def test_whoever_holds_the_lock_is_named_while_a_run_reads(tmp_path: Path, cli: Cli) -> None:
    """A run that let a list's command have the lock reads on, and does not pass for the holder; its bytes are bytes."""

    def until(moment: Callable[[], bool]) -> None:
        ends = time.monotonic() + PATIENCE_S
        while not moment():
            assert time.monotonic() < ends
            time.sleep(0.01)

    with running(Options(latency_ms=40)) as slow:
        place = Place(tmp_path, slow.url, cli, as_of='"none"')
        place.init(CROWD)
        export = place.export.read_bytes()
        run = Forked("run", "-", "--config", place.config, stdin=subprocess.PIPE)
        assert run.stdin
        until(lambda: "reading" in place("status").out)
        path = tmp_path / "list.csv"
        path.write_text("Client\n" + "".join(f"{client}\n" for client in range(100, 180)))
        received = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
        words = ("--received-at", received, "--scope", "all", "--basis", "objection")
        listed = Forked("opt-out", path, *words, "--config", place.config)
        until(lambda: slow.requests > 5)
        listed.send_signal(signal.SIGSTOP)
        for piece in (export[:2000], export[2000:]):
            run.stdin.write(piece)
            time.sleep(1.2)  # longer than a run stays silent
            now = place.summary("status")
            assert (now["running"]["pid"], now["running"]["kind"]) == (listed.pid, "opt-out")
            assert now["beside"].startswith("0002-")
        run.stdin.close()
        said = place("run")
        assert said.code == 75
        assert f"(process {listed.pid}) is sending" in said.err
        assert "beside run 0002-" in said.err
        listed.send_signal(signal.SIGCONT)
        assert listed.wait(PATIENCE_S) == 0
        assert run.wait(PATIENCE_S) == 0


def test_no_file_takes_the_number_of_a_stream_that_is_closed(place: Place) -> None:
    """What a library writes to standard error by its number ends in no file of the state."""
    _hold(place)
    assert _closed(place, "run", streams="<&- >&- 2>&-").code == 6
    assert json.loads(place("state", "check", "--json").out)["exit"] == 0
