"""`--help` of every command fits a screen and ends with an example that can be copied; `--version` is one line."""

import platform
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer

from sync_job.cli.app import app
from tests.commands import Cli

LINES, LINES_OF_ALL, COLUMNS = 40, 50, 80


def commands() -> Iterator[tuple[str, ...]]:
    """Yield every command and every group of them, by its words."""
    yield ()
    top: Any = typer.main.get_command(app)
    for name, command in top.commands.items():
        yield (name,)
        yield from ((name, inner) for inner in getattr(command, "commands", {}))


def options_of(words: tuple[str, ...]) -> set[str]:
    """Return the options of a command."""
    found: Any = typer.main.get_command(app)
    for word in words:
        found = found.commands[word]
    return {option for parameter in found.params for option in parameter.opts}


@pytest.fixture(autouse=True)
def _screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a terminal be as wide as they were."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_fits_a_screen(cli: Cli, words: tuple[str, ...]) -> None:
    """In height and in width."""
    said = cli(*words, "--help")
    assert said.code == 0
    assert len(said.out.splitlines()) <= (LINES if words else LINES_OF_ALL)
    assert [line for line in said.out.splitlines() if len(line) > COLUMNS] == []


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_ends_with_an_example(cli: Cli, words: tuple[str, ...]) -> None:
    """Of that very command, whose options are there; a line that goes on says so as shells read it."""
    said = cli(*words, "--help").out
    _, mark, example = said.rpartition("\n  Example:\n")
    assert mark, said
    line = example.replace("\\\n", " ").strip()
    assert "\n" not in line
    given = shlex.split(line.removeprefix("source <(").removesuffix(")"))
    assert given[: len(words) + 1] == ["consent-sync", *words]
    used = {word for word in given if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    if words and words not in (("state",), ("withdrawals",), ("snapshot",)):
        assert used <= options_of(words)


def test_version_is_one_line_with_python_and_platform(cli: Cli) -> None:
    """What a report of trouble begins with."""
    (line,) = cli("--version").out.splitlines()
    assert line == f"consent-sync {version('consent-sync')}, Python {platform.python_version()}, {platform.platform()}"
