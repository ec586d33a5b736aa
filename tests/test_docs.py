"""The documents say what the program does: their commands run, and each command, option, key and exit code is there."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import sync_job
from sync_job import config
from sync_job.cli.app import app
from sync_job.config import PREFIX, Settings, section_of
from sync_job.consent.diff import Blocked, Held
from sync_job.consent.freshness import Doubt
from sync_job.consent.guards import Guard
from sync_job.errors import PRECEDENCE, Exit
from sync_job.report import lists
from sync_job.report.results import SCHEMA
from sync_job.standin.background import running
from sync_job.standin.options import Options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
OPERATING = (ROOT / "docs" / "operating.md").read_text("utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text("utf-8")
GLOBAL = {"--config", "-c", "--json", "--quiet", "-q"}
EXPORT = """Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque
12345,true,false,,1
12346,false,да,0,нет
"""


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what the machine has in its environment."""
    for name in [one for one in os.environ if one.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a document in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def normal(text: str) -> list[str]:
    """Return the lines of an output without what differs from run to run."""
    text = re.sub(r"\b(\d{4})-\d{8}T\d{6}Z\b", r"\1-TIME", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r"[\d,]+ a second", "N a second", text)
    text = re.sub(r"\S*/demo/reports", "…/demo/reports", text)
    return text.splitlines()


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command of the command line by its whole name; the object is the command-line library's own."""
    top: Any = typer.main.get_command(app)
    for name, command in top.commands.items():
        inner: Mapping[str, Any] = getattr(command, "commands", {})
        if inner:
            yield from ((f"{name} {one}", found) for one, found in inner.items())
        else:
            yield name, command


def keys(model: type[BaseModel] = Settings, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield each configuration key with its path."""
    for name, field in model.model_fields.items():
        inner = section_of(field)
        if inner:
            yield from keys(inner, (*path, name))
        else:
            yield (*path, name), field


def section(text: str, heading: str) -> str:
    """Return what stands below a heading of a document, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    return found.group(1)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Return a folder as README's reader has it, and an environment that leads to a stand-in platform."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "export.csv").write_text(EXPORT, "utf-8")
    (tmp_path / "bearer").write_text("hush\n")
    (tmp_path / "opt-outs.csv").write_text("Client\n12346\n")
    with running(Options()) as standin:
        yield (
            tmp_path,
            dict(os.environ)
            | {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                # What README's reader writes into the copied configuration.
                f"{PREFIX}ENDPOINT__BASE_URL": standin.url,
                f"{PREFIX}EXPORT__PATH": str(tmp_path / "export.csv"),
                f"{PREFIX}STATE__PATH": str(tmp_path / "state"),
                f"{PREFIX}STATE__KEYS": str(tmp_path / "keys"),
                f"{PREFIX}REPORT__PATH": str(tmp_path / "reports"),
            },
        )


def test_readme_commands_run(place: tuple[Path, dict[str, str]]) -> None:
    """Whoever copies README's commands and its Python into a shell, in their order, ends with exit 0."""
    folder, environment = place
    shell = [block for block in blocks(README, "sh") if not block.startswith("make ")]
    (python,) = blocks(README, "python")
    (folder / "readme.py").write_text(python, "utf-8")
    script = "\n".join(["set -eu", *shell, f"'{sys.executable}' -W error readme.py"])
    ended = subprocess.run(
        ["/bin/sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert '"AllowPush": false' in ended.stdout
    assert "'delivered': 0" in ended.stdout, "the second run finds nothing to send"


def test_readme_names_the_two_commands() -> None:
    """`make demo` and `make test` are there, and the Makefile has them."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "make demo\nmake test\n" in blocks(README, "sh")
    for target in ("demo", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_readme_output_is_real(tmp_path: Path) -> None:
    """Each line of the demonstration's output in README occurs in that order in what the demonstration prints."""
    for name in ("configs", "sample_data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "sample_data" / "demo.py")],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    printed = iter(normal(ended.stdout))
    (sample,) = blocks(README, "text")
    for line in normal(sample):
        assert line.strip() == "…" or line in printed, f"not printed, or not in this place: {line}"


def test_every_command_and_option_is_documented() -> None:
    """docs/operating.md has a heading a command, and below it each of the command's options."""
    shared = section(OPERATING, "Commands")
    for option in GLOBAL | {"--log-format", "--log-level", "--version", "--help"}:
        assert f"`{option}`" in shared or f"`{option} " in shared, option
    for name, command in commands():
        text = section(OPERATING, f"`consent-sync {name}`")
        for parameter in command.params:
            if parameter.param_type_name == "option":
                for option in {*parameter.opts} - GLOBAL:
                    assert option in text, f"{name} {option}"
            else:
                assert (parameter.metavar or parameter.name.upper()) in text, f"{name} {parameter.name}"


def test_no_command_is_documented_that_is_not_there() -> None:
    """Each heading of a command names one that exists."""
    found = re.findall(r"^### `consent-sync (.+)`$", OPERATING, re.MULTILINE)
    assert sorted(found) == sorted(name for name, _ in commands())


def test_every_key_is_documented() -> None:
    """docs/configuration.md has a row for each key in its section's table, and no other."""
    by_section: dict[str, list[str]] = {}
    for path, _ in keys():
        by_section.setdefault(".".join(path[:-1]), []).append(path[-1])
    for name, expected in by_section.items():
        found = re.findall(r"^\| `(\w+)` \|", section(CONFIGURATION, f"`[{name}]`"), re.MULTILINE)
        assert found == expected, name


def test_documented_defaults_are_the_defaults() -> None:
    """The default in each key's row is the one in the code."""
    for path, field in keys():
        rows = section(CONFIGURATION, f"`[{'.'.join(path[:-1])}]`")
        row = re.search(rf"^\| `{path[-1]}` \| (.*?) \| (.*?) \|", rows, re.MULTILINE)
        assert row, path
        default: Any = field.default
        if default is PydanticUndefined:
            assert row.group(2) == "*required*", path
        elif default is None:
            assert row.group(2) == "none", path
        else:
            (value,) = tomllib.loads(f"x = {row.group(2).strip('`')}").values()
            assert value == (
                str(default) if isinstance(default, Path) else list(default) if isinstance(default, tuple) else default
            )
        for choice in get_args(field.annotation):
            if isinstance(choice, str):
                assert f'"{choice}"' in row.group(1), path


def test_secrets_and_their_variables_are_documented() -> None:
    """Each secret's variable, and the one for a file, are named."""
    for path, field in keys():
        if "SecretStr" in str(field.annotation):
            variable = PREFIX + "__".join(path).upper()
            assert f"`{variable}`" in CONFIGURATION
            assert f"`{variable}_FILE`" in CONFIGURATION


def test_every_exit_code_is_documented_in_its_order() -> None:
    """The table in docs/operating.md has each code and name, the gravest first."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| .{10,} \|$", section(OPERATING, "Exit codes"), re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [(code.value, code.name) for code in PRECEDENCE]
    assert set(PRECEDENCE) == set(Exit)


def test_every_column_of_the_results_is_documented() -> None:
    """docs/operating.md has a row for each column of results.csv, in the file's order."""
    found = re.findall(r"^\| `(\w+)` \| .* \|$", OPERATING[OPERATING.index("**Columns of") :], re.MULTILINE)
    assert found[: len(SCHEMA.names)] == SCHEMA.names


def test_every_guard_and_doubt_has_something_to_do() -> None:
    """Whoever finds a name in `guards` or `doubts` of a summary finds its row in docs/operating.md; and no other."""
    rows = OPERATING[OPERATING.index("| guard or doubt |") :].split("\n\n")[0].splitlines()[2:]
    named = [name for row in rows for name in row.split("|")[1].strip().split(", ")]
    assert sorted(named) == sorted({*map(str, Guard), *map(str, Doubt)})


def test_files_of_a_report_have_the_columns_that_are_documented(tmp_path: Path) -> None:
    """held.csv and blocked.csv, by their first line."""
    ids, byte = np.array([5], np.int32), np.array([2], np.uint8)
    lists.write_held(tmp_path / "held.csv", Held(ids, byte, byte, np.zeros(1, np.uint8), np.zeros(1)), "re-grants")
    lists.write_blocked(tmp_path / "blocked.csv", Blocked(ids, np.array([1], np.uint8)))
    for name in ("held.csv", "blocked.csv"):
        (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", OPERATING, re.MULTILINE)
        columns = (tmp_path / name).read_text("utf-8").splitlines()[0].replace('"', "").split(",")
        assert [column for column in re.findall(r"`(\w+)`", row) if column in columns] == columns, name


def test_documented_command_lines_are_command_lines() -> None:
    """Each in a block of README or docs, or in a shipped configuration: the command exists, and so do its options."""
    known = {name: {one for parameter in found.params for one in parameter.opts} for name, found in commands()}
    texts = [path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    lines = [
        line
        for text in texts
        for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
        for line in block.split("\n")
    ]
    lines += [line for path in (ROOT / "configs").glob("*.toml") for line in path.read_text("utf-8").splitlines()]
    found = [line[line.index("consent-sync ") :] for line in lines if re.search(r"(^|\s|\$ )consent-sync [a-z]", line)]
    assert len(found) > 10
    for line in found:
        words = line.split(" #")[0].split()[1:]
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
        assert name, line
        options = {word.rstrip(",") for word in words if re.fullmatch(r"--?[a-z][a-z-]*,?", word)}
        assert options <= known[name], line


def test_events_of_bad_hours_are_events() -> None:
    """What docs/operating.md looks for in the log is in docs/logs.md, which another test holds to the code."""
    rows = section(OPERATING, "What the platform's bad hours look like")
    found = set(re.findall(r"`((?:endpoint|breaker|changes?|canary|auth|run|leg)\.[a-z_]+)[ `]", rows))
    logs = (ROOT / "docs" / "logs.md").read_text("utf-8")
    assert len(found) > 10
    assert {event for event in found if f"| `{event}` |" not in logs} == set()


def test_links_lead_somewhere() -> None:
    """Each relative link of README and docs names a file that is there."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_reference_is_the_defaults(tmp_path: Path) -> None:
    """configs/reference.toml loads, shows every key that has a default, and shows it at that default."""
    reference = tomllib.loads((ROOT / "configs" / "reference.toml").read_text("utf-8"))
    least = tmp_path / "least.toml"
    least.write_text(
        f'[export]\nas_of = "none"\n[endpoint]\nbase_url = "{reference["endpoint"]["base_url"]}"\n', "utf-8"
    )
    shutil.copy(ROOT / "configs" / "reference.toml", tmp_path)
    assert config.load(tmp_path / "reference.toml").model_dump() == config.load(least).model_dump()
    for path, field in keys():
        place: Any = reference
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        assert (place is None) == (field.default is None), path


def test_reference_mentions_keys_without_a_default() -> None:
    """A key that is left out by default stands there as a comment; a secret does not."""
    text = (ROOT / "configs" / "reference.toml").read_text("utf-8")
    for path, field in keys():
        if field.default is None:
            assert bool(re.search(rf"^# {path[-1]} = ", text, re.MULTILINE)) == ("SecretStr" not in str(field)), path
        elif field.is_required():
            assert re.search(rf"^{path[-1]} = .*# required", text, re.MULTILINE), path


def test_shipped_configurations_share_one_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Night, backfill and opt-outs name the same platform, state, keys and reports, so that none forgets another."""
    monkeypatch.setenv(f"{PREFIX}ENDPOINT__AUTH__BEARER", "hush")
    found = [config.load(ROOT / "configs" / f"{name}.toml") for name in ("nightly", "backfill", "opt-out")]
    assert len({one.endpoint.target for one in found}) == 1
    assert len({(one.state.path, one.state.keys, one.report.path) for one in found}) == 1


def test_demo_configuration_loads() -> None:
    """configs/demo.toml needs nothing from the environment."""
    assert config.load(ROOT / "configs" / "demo.toml").endpoint.operator == 1


def test_the_python_interface_is_what_readme_shows() -> None:
    """Each public function of the package occurs in README's Python."""
    (python,) = blocks(README, "python")
    for name in sync_job.__all__:
        assert f"sync_job.{name}(" in python
