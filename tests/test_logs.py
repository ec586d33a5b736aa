"""What log lines look like, which there are, and that what repeats is counted."""

import ast
import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from structlog.testing import capture_logs

import sync_job
from sync_job.runs import logs
from sync_job.runs.sampling import EVERY_S
from sync_job.standin.background import running
from sync_job.standin.contract import Answer
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop, people

ROOT = Path(sync_job.__file__).parent
LOGS = (ROOT.parent / "docs" / "logs.md").read_text("utf-8")
EVENT = re.compile(r"[a-z]+\.[a-z_]+")


class Event(NamedTuple):
    """An event as the source tells it, or the document has it; not *whole*: the source adds further fields."""

    level: str
    fields: frozenset[str]
    whole: bool = True


def told() -> Iterator[tuple[str, Event]]:
    """Yield every event that the sources tell: by a logger, or by what a delivery tells."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            name, first = node.func.attr, node.args[0]
            logged = isinstance(node.func.value, ast.Name) and node.func.value.id == "_log"
            if not (logged or name in ("tell", "_tell")):
                continue
            if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
                assert path.name == "logs.py" or not logged, f"{path}: an event whose name nobody can look up"
                continue
            assert EVENT.fullmatch(first.value), f"{path}: {first.value}"
            named = {one.arg for one in node.keywords if one.arg}
            if first.value in logs._REPEATED:
                named.add("count")
            whole = all(one.arg for one in node.keywords)
            yield first.value, Event(name if logged else "info", frozenset(named), whole)


def documented() -> dict[str, Event]:
    """Return the table of docs/logs.md."""
    rows = re.findall(r"^\| `(\S+)` \| (\w+) \| (.*?) \| .{10,} \|$", LOGS, re.MULTILINE)
    rows += re.findall(r"^\| `(\S+)` \| (\w+) \|( )\| \S.* \|$", LOGS, re.MULTILINE)
    return {name: Event(level, frozenset(re.findall(r"`(\w+)`", fields))) for name, level, fields in rows}


def test_every_event_is_documented_and_no_other() -> None:
    """Whoever reads a log line finds its name, its level and its fields in docs/logs.md."""
    found, table = list(told()), documented()
    assert {name for name, _ in found} == set(table)
    assert len(table) == LOGS.count("\n| `")
    for name, event in found:
        assert event.level == table[name].level, name
        if event.whole:
            assert event.fields == table[name].fields, name
        else:
            assert event.fields <= table[name].fields, name


def lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of log lines, which each line is."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def night(tmp_path: Path, cli: Cli) -> list[dict[str, Any]]:
    """Return the log of a night of 300 rows, of which every third is refused."""
    locked = Options(
        script=lambda _, client: Fault.REFUSE if client % 3 == 0 else None, refusal=Answer(3, "The client is locked")
    )
    with running(locked) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(dict.fromkeys(range(1000, 1300), (False, True, False, False)))
        shop.init("unknown")
        said = cli("--log-format", "json", "--log-level", "info", "run", "--config", shop.config)
        assert said.code == 1
        assert said.out
        return lines(said.err)


def test_the_first_fields_are_those_that_people_look_for(night: list[dict[str, Any]]) -> None:
    """When, how grave, what; then, from the first line of the run to its last, of which run."""
    names = [list(line)[:4] for line in night]
    started = next(place for place, line in enumerate(night) if line["event"] == "run.started")
    assert all(one[:3] == ["timestamp", "level", "event"] for one in names)
    assert all(one[3] == "run" for one in names[started:])
    (run,) = {line["run"] for line in night[started:]}
    assert re.fullmatch(r"0002-\d{8}T\d{6}Z", run)
    assert night[-1]["event"] == "run.ended"


def test_no_event_has_a_field_that_is_not_documented(night: list[dict[str, Any]]) -> None:
    """Also where they are put together while the run is under way."""
    table = documented()
    for line in night:
        assert set(line) - {"timestamp", "level", "event", "run"} <= table[line["event"]].fields, line
        assert line["level"] == table[line["event"]].level


def test_refusals_are_counted_and_not_told_one_by_one(night: list[dict[str, Any]]) -> None:
    """A line at once and one at the end; together they are all that were refused."""
    refused = [line for line in night if line["event"] == "change.refused"]
    assert [line["count"] for line in refused] == [1, 99]
    assert {(line["status"], line["code"]) for line in refused} == {(200, 3)}


def test_a_line_a_minute_for_a_hundred_thousand() -> None:
    """In virtual time: each kind by itself, and the counts add up."""
    now = 0.0
    repeated = logs.Repeated(clock=lambda: now)
    with capture_logs() as heard:
        for number in range(100_000):
            now = number / 250
            repeated.tell("change.refused", status=200, code=number % 2)
        repeated.flush()
    minutes = 100_000 / 250 / EVERY_S
    assert len(heard) <= 2 * (minutes + 2)
    counted: Counter[Any] = Counter()
    for line in heard:
        counted[line["code"]] += line["count"]
    assert counted == {0: 50_000, 1: 50_000}
    assert {line["log_level"] for line in heard} == {"info"}


def test_a_code_for_each_row_is_no_line_for_each_row() -> None:
    """Beyond fifty kinds the others are counted together."""
    repeated = logs.Repeated(clock=lambda: 0.0)
    with capture_logs() as heard:
        for number in range(1000):
            repeated.tell("change.refused", status=200, code=number)
        repeated.flush()
    assert len(heard) == 52
    assert sum(line["count"] for line in heard) == 1000
    assert {line["count"] for line in heard if (line["status"], line["code"]) == (None, None)} == {1, 949}


def test_what_does_not_repeat_is_told_as_it_is() -> None:
    """Two legs that try rows once more are two lines, each with its number."""
    repeated = logs.Repeated(clock=lambda: 0.0)
    with capture_logs() as heard:
        repeated.tell("changes.once_more", rows=3)
        repeated.tell("changes.once_more", rows=4)
        repeated.flush()
    assert [line["rows"] for line in heard] == [3, 4]
    assert not any("count" in line for line in heard)


def test_the_last_fields_stand_for_those_before() -> None:
    """A pause that was asked for again and again: how often, and how long the last one was."""
    now = 0.0
    repeated = logs.Repeated(clock=lambda: now)
    with capture_logs() as heard:
        for seconds in (1, 2, 3):
            repeated.tell("endpoint.pause", seconds=seconds)
        repeated.flush()
    assert [(line["seconds"], line["count"]) for line in heard] == [(1, 1), (3, 2)]


def test_a_run_is_named_in_its_lines_alone() -> None:
    """What is logged after it is of no run, however it ended."""
    structlog.contextvars.clear_contextvars()

    def end() -> None:
        with logs.of_its_own():
            logs.begin("0007-x")
            assert structlog.contextvars.get_contextvars() == {"run": "0007-x"}
            raise KeyError

    with pytest.raises(KeyError):
        end()
    assert structlog.contextvars.get_contextvars() == {}


def on_a_terminal(shop: Shop, **environment: str) -> bytes:
    """Return what a run with log lines for people writes to a terminal on standard error."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "sync_job", "--log-level", "info", "run", "--config", str(shop.config)],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            check=False,
            env=kept | {"TERM": "xterm"} | environment,
        )
    finally:
        os.close(theirs)
    assert ended.returncode == 0
    found = b""
    try:
        while part := os.read(ours, 1 << 16):
            found += part
    except OSError:  # how a terminal says that nobody writes any more
        pass
    finally:
        os.close(ours)
    return found


COLOUR = re.compile(rb"\x1b\[[0-9;]*3[0-7](;[0-9]+)*m")


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_honoured(tmp_path: Path, environment: dict[str, str], coloured: bool) -> None:
    """By log lines and by the progress between them; a terminal has colours otherwise."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(30))
        shop.init("unknown")
        said = on_a_terminal(shop, **environment)
    assert b"run.ended" in said
    assert bool(COLOUR.search(said)) == coloured


def test_there_are_no_colours_off_a_terminal(tmp_path: Path, cli: Cli) -> None:
    """Whatever reads the lines gets plain text."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(5))
        shop.init("unknown")
        said = cli("--log-level", "info", "run", "--config", shop.config)
    assert "run.ended" in said.err
    assert "\x1b" not in said.err
