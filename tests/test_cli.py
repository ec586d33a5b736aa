import contextlib
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from sync_job.cli import options
from sync_job.cli.app import app, exit_codes
from sync_job.errors import (
    BusyError,
    ConfigError,
    CountsError,
    EndpointError,
    ExportError,
    PausedError,
    StateError,
)
from sync_job.ledger import tables
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests import workbooks
from tests.commands import Cli, Said
from tests.test_files import small_disk
from tests.test_lock import held_elsewhere

FIELDS = ("AllowSms", "AllowEmail", "AllowPush", "AllowEmailOnlineCheque")
HEADER = ",".join(("Client", *FIELDS))
GOOD = f"{HEADER}\n1,true,false,,\n2,true,true,true,true\n3,false,false,false,false\n4,,,true,false\n"
GRANTS = 3  # clients of GOOD that an empty platform would be sent an *allowed*
HELD = {
    1: (True, False, None, None),
    2: (True,) * 4,
    3: (False,) * 4,
    4: (None, None, True, False),
}
_CONFIG = """
[export]
path = "export.csv"
as_of = "none"
[endpoint]
base_url = "{url}"
operator = 7
not_found_codes = [8]
[delivery]
attempts = 1
timeout_s = 5
max_outage_s = 0.2
linger_s = 0.2
"""


class Target:
    """A folder with configuration and export, and the command line for them."""

    def __init__(self, folder: Path, url: str, cli: Cli) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config, self.export, self.state = folder / "c.toml", folder / "export.csv", folder / "state"
        self.config.write_text(_CONFIG.format(url=url))
        self.export.write_text(GOOD)
        self._cli = cli

    def __call__(self, *arguments: str | Path) -> Said:
        """Run a command with this configuration."""
        return self._cli(*arguments, "--config", self.config)

    def configure(self, old: str, new: str) -> None:
        """Put *new* in the place of *old* in the configuration."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def init(self, platform: str = "empty", grants: int = GRANTS) -> Said:
        """Make state from the export."""
        return self("init", self.export, "--platform", platform, "--no-withdrawals", "--approve-grants", str(grants))

    def files(self) -> dict[str, tuple[str, int]]:
        """Return content and time of everything in the state and report folders."""
        return {
            str(path.relative_to(self.folder)): (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
                path.stat().st_mtime_ns,
            )
            for folder in (self.state, self.folder / "reports")
            for path in [folder, *folder.rglob("*")]
            if path.exists()
        }


@pytest.fixture(scope="module")
def unused_url() -> str:
    """Return an address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def dead(tmp_path: Path, cli: Cli, unused_url: str) -> Target:
    """Return a target whose endpoint cannot be reached."""
    return Target(tmp_path / "target", unused_url, cli)


@pytest.fixture
def standin() -> Iterator[Standin]:
    """Run a platform that knows everyone."""
    with running(Options()) as platform:
        yield platform


@pytest.fixture
def target(tmp_path: Path, cli: Cli, standin: Standin) -> Target:
    """Return a target with a platform that holds nothing, and state that knows it."""
    made = Target(tmp_path / "target", standin.url, cli)
    assert made.init().code == 0
    return made


def _held(standin: Standin) -> dict[int, tuple[bool | None, ...]]:
    return {client: tuple(flags) for client, flags in standin.platform.state.items()}


# What is wrong with the export


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no such file", "Check the path"]),
        (b"", ["the file is empty", "whether the export has run"]),
        (f"{HEADER}\n".encode(), ["a header and no rows", "has the export run?"]),
        (b"Client,AllowSms,AllowEmail,AllowPush\n1,1,1,1\n", ["no column 'AllowEmailOnlineCheque'", "export.columns"]),
        (GOOD.replace("Client", "Clientt").encode(), ["no column 'Client'", "Did you mean 'Clientt'?"]),
        (b"\x1f\x8b\x08\0\0\0\0", ["damaged or cut short as gzip", "Export it again"]),
        (b"PK\x03\x04abc", ["zip archive or an Excel workbook", "Export it again"]),
        (b"PAR1" + b"x" * 100, ["Parquet"]),
    ],
    ids=["none", "empty", "header", "column", "client", "gzip", "excel", "parquet"],
)
@pytest.mark.parametrize("command", ["init", "check"])
def test_an_export_that_cannot_be_used_ends_in_3(
    dead: Target, command: str, content: bytes | None, words: list[str]
) -> None:
    """File, fault and cure are named, and no state is made."""
    dead.export.unlink()
    if content is not None:
        dead.export.write_bytes(content)
    if command == "check" and words[0].endswith("'AllowEmailOnlineCheque'"):
        words = words[:1]
    said = dead.init() if command == "init" else dead("check", dead.export)
    assert said.code == 3
    assert str(dead.export) in said.err
    for word in words:
        assert word in said.err
    assert not dead.state.exists()


def test_a_truncated_parquet_file_ends_in_3(dead: Target) -> None:
    """The footer is at the end: nothing of it can be read."""
    path = dead.folder / "export.parquet"
    pq.write_table(pa.table({"Client": [1, 2]} | {name: [True, False] for name in FIELDS}), path)
    path.write_bytes(path.read_bytes()[:-10])
    said = dead("check", path)
    assert said.code == 3
    assert str(path) in said.err


@pytest.mark.parametrize(("format_", "is_parquet"), [("parquet", False), ("csv", True)])
def test_an_export_in_another_format_than_configured_ends_in_3(dead: Target, format_: str, is_parquet: bool) -> None:
    """The message names the key that says otherwise."""
    dead.configure('as_of = "none"', f'as_of = "none"\nformat = "{format_}"')
    if is_parquet:
        pq.write_table(pa.table({"Client": [1]} | {name: [True] for name in FIELDS}), dead.export)
    said = dead.init()
    assert said.code == 3
    assert "[export] format" in said.err


@pytest.mark.parametrize("content", [None, b"", f"{HEADER}\n".encode(), b"PAR1xxx"], ids=str)
def test_a_run_without_a_usable_export_sends_nothing(target: Target, standin: Standin, content: bytes | None) -> None:
    """It ends in 3 and is in the history with that; the next night it is as if it had not been."""
    target.export.unlink()
    if content is not None:
        target.export.write_bytes(content)
    said = target("run")
    assert said.code == 3
    assert str(target.export) in said.err
    assert standin.requests == 0
    assert [run["exit"] for run in json.loads(target("runs", "--json").out)["runs"]] == [0, 3]
    target.export.write_text(GOOD)
    assert target("run").code == 0
    assert _held(standin) == HELD


def test_bad_rows_are_rejected_with_their_lines(target: Target, standin: Standin) -> None:
    """The rest is sent; a run with new rejects ends in 1, one with known and tolerated ones in 0."""
    target.configure("[delivery]", "[report]\ntolerate = 0.5\n[delivery]")
    target.export.write_text(GOOD + "x5,true,true,true,true\n")
    said = target("run", "--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert found["export"]["rejects"] == 1
    path = Path(found["folder"]) / "rejects.csv"
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["reject_line"] == "6"
    assert path.stat().st_mode & 0o777 == 0o600
    assert _held(standin) == HELD
    assert target("run").code == 0


# What is wrong with the configuration or the command line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("attempts = 1", "attempt = 1", ["[delivery] attempt", "unknown key", "did you mean 'attempts'"]),
        ("attempts = 1", 'attempts = "many"', ["[delivery] attempts", "integer"]),
        ("attempts = 1", "attempts = 0", ["[delivery] attempts", "greater than or equal to 1"]),
        ("[delivery]", "[deliver]", ["deliver", "unknown key", "did you mean 'delivery'"]),
        ("[delivery]", 'endpoint = "x"\n[delivery]', ["endpoint"]),
        ("operator = 7", "operator = 70000", ["[endpoint] operator", "32767"]),
        ("operator = 7", 'auth = "bearer"', ["[endpoint] auth"]),
        ("base_url", "# base_url", ["[endpoint] base_url", "missing"]),
        ('base_url = "http', 'base_url = "ftp', ["[endpoint] base_url", "http or https"]),
        ('path = "export.csv"', "path = 7", ["[export] path", "string"]),
        ('as_of = "none"', "", ["[export] as_of", "missing"]),
        ("operator = 7", 'token = "123"', ["[endpoint] token", "secret", "CONSENT_SYNC__ENDPOINT__TOKEN"]),
        ("operator = 7", "operator = ", ["not TOML", "line 7"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["run", "status"])
def test_a_wrong_configuration_ends_in_2(dead: Target, command: str, old: str, new: str, words: list[str]) -> None:
    """File, key, fault and, where there is one, the nearest known name."""
    dead.configure(old, new)
    said = dead(command)
    assert said.code == 2
    assert str(dead.config) in said.err
    for word in words:
        assert word in said.err
    assert not dead.state.exists()


def test_a_configuration_that_cannot_be_read_ends_in_2(tmp_path: Path, cli: Cli) -> None:
    """Missing, a folder, or not text."""
    missing = cli("run", "--config", tmp_path / "no.toml")
    assert (missing.code, "no such configuration" in missing.err) == (2, True)
    folder = cli("run", "--config", tmp_path)
    assert (folder.code, str(tmp_path) in folder.err) == (2, True)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\xa5")
    binary = cli("run", "--config", tmp_path / "binary.toml")
    assert (binary.code, "binary.toml" in binary.err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run", "--frobnicate", "--config", "c.toml"],
        ["run"],
        ["run", "--config", "c.toml", "--limit", "-1"],
        ["run", "--config", "c.toml", "--limit", "many"],
        ["try", "0", "--deny", "sms", "--config", "c.toml"],
        ["try", "2147483648", "--deny", "sms", "--config", "c.toml"],
        ["standin", "--port", "70000"],
        ["--log-level", "loud", "runs", "--config", "c.toml"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_in_2(cli: Cli, arguments: list[str]) -> None:
    """With a word on standard error, and nothing on standard output."""
    said = cli(*arguments)
    assert said.code == 2
    assert said.err
    assert not said.out


def test_help_and_version_end_in_0(cli: Cli) -> None:
    """Each command is in the list."""
    said = cli("--help")
    assert said.code == 0
    for command in _commands():
        assert f"  {command[0]} " in said.out
    assert cli("--version").out.startswith("consent-sync ")


def test_init_wants_to_be_told_about_withdrawals_and_grants(dead: Target) -> None:
    """Without the words it ends in 2 and makes nothing."""
    without = dead("init", dead.export, "--platform", "empty")
    assert (without.code, "--no-withdrawals" in without.err) == (2, True)
    for grants in (GRANTS - 1, GRANTS + 1, 0):
        wrong = dead.init(grants=grants)
        assert (wrong.code, f"--approve-grants {GRANTS}" in wrong.err) == (2, True)
    unsaid = dead("init", dead.export, "--platform", "empty", "--no-withdrawals")
    assert (unsaid.code, f"--approve-grants {GRANTS}" in unsaid.err) == (2, True)
    assert dead.init(grants=-1).code == 2
    assert not dead.state.exists()
    assert dead("init", dead.export, "--platform", "unknown", "--no-withdrawals").code == 0


# What is wrong with the state


def test_init_never_replaces_state(target: Target) -> None:
    """The second one ends in 4, and the first one's files are as they were."""
    before = {name: found for name, found in target.files().items() if name.startswith("state/snap")}
    said = target.init()
    assert said.code == 4
    assert f"{target.state}: there is state already" in said.err
    after = target.files()
    assert before == {name: after[name] for name in before}
    assert target("run").code == 0


@pytest.mark.parametrize(
    "command", [["run"], ["plan"], ["status"], ["runs"], ["report"], ["snapshot", "show", "1"]], ids=" ".join
)
def test_no_state_ends_in_4(dead: Target, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """The absolute path is named, and no folder is made."""
    monkeypatch.chdir(dead.folder)
    dead.config = Path("c.toml")
    said = dead(*command)
    assert said.code == 4
    assert f"{dead.state}: no state" in said.err
    assert "consent-sync init" in said.err
    assert not dead.state.exists()


@pytest.mark.parametrize("command", [["run"], ["plan"], ["snapshot", "show", "1"]], ids=" ".join)
def test_a_damaged_snapshot_ends_in_4(target: Target, standin: Standin, command: list[str]) -> None:
    """The file is named, and nothing is sent."""
    path = target.state / "snapshots" / "1.parquet"
    content = bytearray(path.read_bytes())
    content[10] ^= 0xFF
    path.write_bytes(content)
    said = target(*command)
    assert said.code == 4
    assert f"{path}: damaged" in said.err
    assert standin.requests == 0


@pytest.mark.parametrize("command", [["run"], ["status"], ["report"]], ids=" ".join)
def test_a_damaged_ledger_ends_in_4(target: Target, command: list[str]) -> None:
    """The file is named, with what to do."""
    path = target.state / "ledger.db"
    path.write_bytes(b"no database at all, " * 1000)
    said = target(*command)
    assert said.code == 4
    assert f"{path}: damaged" in said.err
    assert "backup" in said.err


def test_the_state_of_another_target_ends_in_4(target: Target, standin: Standin) -> None:
    """Both targets are named, and nothing is sent."""
    target.configure("operator = 7", "operator = 8")
    for command in ("run", "plan", "status"):
        said = target(command)
        assert said.code == 4
        assert "operator 7" in said.err
        assert "operator 8" in said.err
    assert standin.requests == 0


def test_a_full_disk_ends_in_4_and_the_next_run_carries_on(tmp_path: Path, cli: Cli, standin: Standin) -> None:
    """The file and the cure are named; with room again, the platform is brought to what the export says."""
    with small_disk(tmp_path / "disk", 512 * 1024) as disk:
        full = Target(tmp_path / "target", standin.url, cli)
        full.configure("[delivery]", f'[state]\npath = "{disk}/state"\n[delivery]')
        assert full.init().code == 0
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        said = full("run")
        assert said.code == 4
        assert str(disk / "state") in said.err
        assert "make room" in said.err
        filler.unlink()
        assert full("run").code in (0, 1)
        assert _held(standin) == HELD


def test_a_held_lock_ends_in_75(target: Target, standin: Standin) -> None:
    """Who holds it is said; looking is allowed meanwhile."""
    with held_elsewhere(target.state):
        for command in ("run", "plan"):
            said = target(command)
            assert said.code == 75
            assert "run 0007-x" in said.err
        status = json.loads(target("status", "--json").out)
        assert status["running"]["stage"] == "sending"
        assert re.search(r"^run 0007-x \(process \d+\).*: sending 3 of 9 \(33.3%\)$", target("status").out, re.M)
        assert standin.requests == 0
    assert target("run").code == 0


# The endpoint


def test_an_unreachable_endpoint_ends_in_5(dead: Target, standin: Standin) -> None:
    """Quickly, with its address; the next run delivers everything."""
    assert dead.init().code == 0
    began = time.monotonic()
    said = dead("run")
    assert said.code == 5
    assert time.monotonic() - began < 10
    base_url = dead.config.read_text().split('base_url = "')[1].split('"')[0]
    assert base_url in said.out + said.err
    found = json.loads(dead("report", "--json").out)
    assert found["exit"] == 5
    assert found["outcomes"]["delivered"] == 0


# What commands do when all is well


def test_a_run_that_went_well_is_silent(target: Target, standin: Standin) -> None:
    """No mail from cron; and an unchanged export sends nothing."""
    assert target("run") == Said(0, "", "")
    assert _held(standin) == HELD
    sent = standin.requests
    assert target("run") == Said(0, "", "")
    assert standin.requests == sent


def test_json_is_one_object(target: Target) -> None:
    """Of every command that has it, and nothing else is on standard output."""
    for command in (["plan"], ["run"], ["report"], ["status"], ["check"], ["try", "1", "--deny", "sms"]):
        said = target(*command, "--json")
        assert said.code == 0, said
        assert isinstance(json.loads(said.out), dict), command
        assert said.err == ""
    for command in (["runs"], ["snapshot", "show", "1"]):
        assert isinstance(json.loads(target(*command, "--json").out), list | dict), command


def test_log_lines_are_json_on_standard_error(target: Target) -> None:
    """Each is one object, and none names a client."""
    said = target("--log-format", "json", "run")
    assert said.code == 0
    assert said.out == ""
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert {"run.started", "run.ended"} <= {line["event"] for line in lines}
    assert not any("client" in line for line in lines)


def test_planning_changes_nothing(target: Target, standin: Standin) -> None:
    """State and reports are the same to the byte and the time, and the same is planned again."""
    before = target.files()
    first = json.loads(target("plan", "--json").out)
    second = json.loads(target("plan", "--json", "-o", target.folder / "tonight.plan").out)
    assert target.files() == before
    assert standin.requests == 0
    assert first["requests"] == second["requests"] == len(HELD)
    assert first["decided"] == second["decided"]
    shown = target("plan")
    assert "nothing was sent" in shown.out
    assert f"{len(HELD)} requests" in shown.out


def _planned(target: Target) -> Path:
    path = target.folder / "tonight.plan"
    assert target("plan", "-o", path).code == 0
    return path


def test_a_plan_is_applied_once(target: Target, standin: Standin) -> None:
    """The second time it is refused, because something was delivered since."""
    path = _planned(target)
    target.export.write_text(f"{HEADER}\n9,true,true,true,true\n")  # what is applied is the plan
    assert target("apply", path) == Said(0, "", "")
    assert _held(standin) == HELD
    sent = standin.requests
    said = target("apply", path)
    assert said.code == 2
    assert f"{path}: something was delivered since it was made" in said.err
    assert standin.requests == sent


def test_a_stale_plan_is_refused(target: Target, standin: Standin) -> None:
    """A run in between has sent it already."""
    path = _planned(target)
    assert target("run").code == 0
    sent = standin.requests
    said = target("apply", path)
    assert (said.code, "consent-sync plan" in said.err) == (2, True)
    assert standin.requests == sent


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("old", "older than 24 hours"),
        ("early", "from the future"),
        ("foreign", "a plan for http://elsewhere operator 1"),
        ("restated", "restate"),
        ("leg", "not a saved plan"),
        ("cut", "damaged"),
        ("none", "it is missing"),
        ("text", "no plan that can be read"),
    ],
)
def test_a_plan_that_may_not_be_sent_ends_in_2(target: Target, standin: Standin, harm: str, words: str) -> None:
    """Nothing is sent, and the run leaves no trace."""
    path = _planned(target)
    rows, kept, about = tables.read_saved_plan(path)
    changes: dict[str, dict[str, Any]] = {
        "old": {"made": about["made"] - 25 * 3600},
        "early": {"made": about["made"] + 3600},
        "foreign": {"target": "http://elsewhere operator 1"},
        "restated": {"restate": "never"},
    }
    if harm in changes:
        tables.write_saved_plan(path, rows, kept, about | changes[harm])
    elif harm == "leg":
        tables.write_plan(path, rows, {"run": "0002-x", "leg": 1})
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "none":
        path.unlink()
    else:
        path.write_text(GOOD)
    before = target.files()
    said = target("apply", path)
    assert said.code == 2
    assert str(path) in said.err
    assert words in said.err
    assert target.files() == before
    assert standin.requests == 0


def test_a_limit_defers_the_rest(target: Target, standin: Standin) -> None:
    """No more than so many are sent; the next run finishes."""
    said = target("run", "--limit", "3", "--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert found["outcomes"] == {"delivered": 3, "refused": 0, "exhausted": 0, "deferred": 1}
    assert standin.requests == 3
    assert target("run") == Said(0, "", "")
    assert _held(standin) == HELD
    assert standin.requests == 4


def test_restrict_only_never_grants(target: Target, standin: Standin) -> None:
    """No request states *allowed*; every denial is delivered; a later run grants what was held."""
    said = target("run", "--restrict-only", "--json")
    assert json.loads(said.out)["restrict_only"]
    assert standin.requests
    assert not any(True in entry.flags for entry in standin.platform.log)
    denied = {client: tuple(False if flag is False else None for flag in flags) for client, flags in HELD.items()}
    assert _held(standin) == {client: flags for client, flags in denied.items() if False in flags}
    assert target("run").code == 0
    assert _held(standin) == HELD


@pytest.mark.parametrize("format_", ["json", "xml", "form"])
def test_a_trial_shows_everything_and_grants_nothing(target: Target, standin: Standin, format_: str) -> None:
    """Address, headers, body, answer and verdict; state is as it was."""
    target.configure("operator = 7", f'operator = 7\nformat = "{format_}"')
    before = target.files()
    said = target("try", "12345", "--deny", "sms,Push")
    assert said.code == 0
    for part in (f"POST {standin.url}/api/client/", "Content-Type", "12345", "AllowSms", "HTTP 200, ErrorCode 0"):
        assert part in said.out
    assert "AllowEmail" not in said.out
    assert "delivered" in said.out
    assert _held(standin) == {12345: (False, None, False, None)}
    assert target.files() == before


def test_a_trial_says_what_went_wrong(target: Target, dead: Target, standin: Standin) -> None:
    """A name that is no channel ends in 2, and an endpoint that cannot be reached in 5."""
    target.config.write_text(_CONFIG.format(url=standin.url))
    wrong = target("try", "1", "--deny", "fax")
    assert (wrong.code, "'fax' is no channel" in wrong.err) == (2, True)
    assert standin.requests == 0
    standin.stop()
    away = target("try", "1", "--deny", "sms", "--json")
    assert away.code == 5
    found = json.loads(away.out)
    assert (found["failure"], found["status"]) == ("not_connected", None)


def test_a_trial_that_is_refused_ends_in_1(tmp_path: Path, cli: Cli) -> None:
    """With the code and the message of the platform."""
    with running(Options(unknown_every=5)) as platform:
        said = Target(tmp_path / "target", platform.url, cli)("try", "10", "--deny", "sms")
    assert said.code == 1
    assert "ErrorCode 8, Message 'Участник не найден'" in said.out


def test_the_snapshot_is_shown_and_exported(target: Target) -> None:
    """What the platform acknowledged, in words, as JSON, as CSV and as Parquet."""
    assert target("run").code == 0
    shown = target("snapshot", "show", "1", "99")
    assert "allowed" in shown.out
    assert "not known" in shown.out
    (one,) = json.loads(target("snapshot", "show", "1", "--json").out)["clients"]
    assert one == {
        "Client": 1,
        "known": True,
        **dict(zip(FIELDS, HELD[1], strict=True)),
        "due": "----",
        "withdrawn": [],
        "owed": [],
        "parked": False,
    }
    out = target.folder / "snapshot.csv"
    assert target("snapshot", "export", out).code == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    word = {True: "true", False: "false", None: ""}
    assert {int(row["Client"]): tuple(row[name] for name in FIELDS) for row in rows} == {
        client: tuple(word[flag] for flag in flags) for client, flags in HELD.items()
    }
    assert out.stat().st_mode & 0o777 == 0o600
    out = target.folder / "snapshot.parquet"
    assert target("snapshot", "export", out).code == 0
    assert pq.read_table(out).num_rows == len(HELD)
    wrong = target("snapshot", "export", target.folder / "snapshot.xlsx")
    assert (wrong.code, ".csv or .parquet" in wrong.err) == (2, True)


def test_the_history_and_its_reports_are_shown(target: Target) -> None:
    """By id, by number, and the last by default; one that is not there ends in 2."""
    assert target("run").code == 0
    history = json.loads(target("runs", "--json").out)["runs"]
    assert [(run["kind"], run["stage"], run["exit"]) for run in history] == [
        ("init", "reported", 0),
        ("run", "reported", 0),
    ]
    assert "delivered" in target("runs").out
    last = json.loads(target("report", "--json").out)
    assert last["run"] == history[1]["run"]
    assert last["outcomes"]["delivered"] == len(HELD)
    for name in (history[0]["run"], "1", "0001"):
        assert json.loads(target("report", name, "--json").out)["kind"] == "init"
    assert "FINE" in target("report").out
    none = target("report", "77")
    assert (none.code, "'77'" in none.err, history[1]["run"] in none.err) == (2, True, True)
    status = target("status")
    assert "nothing is running" in status.out
    assert history[1]["run"] in status.out


def test_check_shows_an_export_without_any_state(dead: Target, cli: Cli) -> None:
    """With a configuration or without; nothing is made."""
    dead.export.write_text(GOOD + "x5,true,true,true,true\n")
    for said in (dead("check"), cli("check", dead.export)):
        assert said.code == 0
        assert "5 rows: 4 clients" in said.out
        assert f"{dead.export}:6: x5,true" in said.out
    assert sorted(path.name for path in dead.folder.iterdir()) == ["c.toml", "export.csv"]
    assert cli("check").code == 2


def test_a_standin_on_a_taken_port_ends_in_2(standin: Standin, cli: Cli) -> None:
    """The port is named, and how to choose another."""
    said = cli("standin", "--port", str(standin.port))
    assert said.code == 2
    assert f"port {standin.port}" in said.err
    assert "--port" in said.err


def test_the_command_is_a_process_like_any_other(dead: Target) -> None:
    """Its exit code reaches the shell, its message standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "sync_job", "run", "--config", dead.config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith(f"consent-sync: {dead.state}: no state")
    assert "Traceback" not in done.stderr


# Lists of withdrawals


def _withdrawals(target: Target, *clients: object, name: str = "opt-outs.csv") -> Path:
    path = target.folder / name
    path.write_text("".join(f"{client}\n" for client in clients))
    return path


SAID = ("--received-at", "2026-11-02", "--scope", "sms", "--basis", "objection")


def _ago(days: float) -> str:
    return datetime.fromtimestamp(time.time() - 86400 * days, UTC).isoformat()


def _lately() -> tuple[str, ...]:
    """Return what is said of a list that was received half a day ago: it is not past its limit yet."""
    return ("--received-at", _ago(0.5), *SAID[2:])


def _known(target: Target, standin: Standin) -> int:
    """Bring the platform to what the export says, and return how many requests that took."""
    assert target("run").code == 0
    return standin.requests


def test_an_opt_out_is_sent_at_once_and_acknowledged(target: Target, standin: Standin) -> None:
    """Exit 0 says that the platform took it; the next night grants nothing of it, and says what it blocked."""
    before = _known(target, standin)
    said = target("opt-out", _withdrawals(target, 2, 99), *SAID, "--json")
    assert said.code == 0, said
    found = json.loads(said.out)
    assert (found["clients"], found["rejected"], found["exit"], found["busy"]) == (2, 0, 0, "")
    assert {name: found["sent"][name] for name in ("acknowledged", "open", "refused", "parked")} == {
        "acknowledged": 2,
        "open": 0,
        "refused": 0,
        "parked": 0,
    }
    assert standin.requests == before + 2
    assert _held(standin)[2] == (False, True, True, True)
    assert _held(standin)[99] == (False, None, None, None)
    assert target("run").code == 0
    night = json.loads(target("report", "--json").out)
    assert night["decided"]["blocked"] == 1
    assert re.search(r"^ *Stopped by opt-out +1$", target("report").out, re.M)
    assert standin.requests == before + 2


def test_a_workbook_of_addresses_is_an_opt_out(target: Target, standin: Standin) -> None:
    """The sheet is named, and the lookup says who is meant; without them each is asked for (exit 3)."""
    letters = workbooks.sheet(("E-mail",), ("ann@example.com",), ("nobody@example.com",))
    book = workbooks.write(target.folder / "opt-out list.xlsx", {"L": letters, "Old": workbooks.sheet((7,))})
    table = target.folder / "people.csv"
    table.write_text("Client,E-mail\n2,Ann@example.com\n3,ann@example.com\n")
    said = target("opt-out", book, *SAID)
    assert (said.code, "Name one with --sheet" in said.err) == (3, True)
    said = target("opt-out", book, *SAID, "--sheet", "L")
    assert (said.code, "this list has e-mail addresses" in said.err) == (3, True)
    assert standin.requests == 0
    found = json.loads(target("opt-out", book, *SAID, "--sheet", "L", "--lookup", table, "--json").out)
    assert (found["rows"], found["clients"], found["rejected"]) == (2, 2, 1)
    assert {client: _held(standin)[client][0] for client in (2, 3)} == {2: False, 3: False}
    assert found["rejects"][0]["why"] == "E-mail: not in the lookup"
    report = json.loads(target("report", "--json").out)
    assert (report["kind"], report["exit"]) == ("opt-out", 1)
    assert report["reasons"] == ["1 row of the list could not be taken in; mend and send them again"]
    said = target("reconsent", book, "--sheet", "Old")
    assert (said.code, "no column 'channels'" in said.err) == (3, True)
    said = target("forget", book, "--sheet", "L", "--lookup", table)
    assert (said.code, "nobody can tell which is meant" in said.err) == (3, True)
    said = target("check", book, "--sheet", "Nothing")
    assert "no sheet 'Nothing'" in said.err


def test_an_opt_out_says_in_words_what_became_of_it(target: Target, standin: Standin) -> None:
    """The beginning of its digest, its clients, what the platform answered; a repeat is known as one."""
    path = _withdrawals(target, 1, 2, 3)
    said = target("opt-out", path, *SAID)
    digest = json.loads(target("withdrawals", "status", "--json").out)["lists"][0]["digest"]
    assert said.code == 0
    assert said.out.startswith(f"list {digest[:12]} is taken in for {standin.url}")
    assert "3 acknowledged, 0 to be tried again, 0 refused, 0 not known to the platform" in said.out
    sent = standin.requests
    again = target("opt-out", path, *SAID, "--quiet")
    assert again == Said(0, "", "")
    assert standin.requests == sent


def test_a_list_is_looked_at_without_being_taken_in(target: Target, standin: Standin) -> None:
    """`--check` counts known, unknown and withdrawn already, and changes nothing, to the byte."""
    before = _known(target, standin)
    assert target("opt-out", _withdrawals(target, 1), *SAID).code == 0
    files = target.files()
    said = target("opt-out", _withdrawals(target, 1, 2, 50), *SAID, "--check", "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert {name: found[name] for name in ("clients", "known", "unknown", "withdrawn_already", "rejected")} == {
        "clients": 3,
        "known": 2,
        "unknown": 1,
        "withdrawn_already": 1,
        "rejected": 0,
    }
    assert "nothing was taken in" in target("opt-out", _withdrawals(target, 1), *SAID, "--check").out
    assert target("opt-out", _withdrawals(target, 1, "x"), *SAID, "--check").code == 1
    assert target.files() == files
    assert standin.requests == before + 1


def test_a_bad_row_never_blocks_the_good_ones(target: Target, standin: Standin) -> None:
    """The good are sent, the bad are told by line and reason, five at most, and the command ends in 1."""
    said = target("opt-out", _withdrawals(target, 2, *["x"] * 7, 3), *SAID)
    assert said.code == 1
    assert "7 rows could not be taken" in said.out
    assert "line 2: " in said.out
    assert said.out.count("    line ") == 5
    assert sorted(_held(standin)) == [2, 3]
    found = target("opt-out", _withdrawals(target, 2, "x", 3), *SAID, "--json")
    assert (found.code, json.loads(found.out)["exit"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*SAID[2:],), ["--received-at"]),
        ((*SAID[:2], *SAID[4:]), ["--scope"]),
        ((*SAID[:4],), ["--basis"]),
        (("--received-at", "yesterday", *SAID[2:]), ["--received-at", "'yesterday'"]),
        ((*SAID[:2], "--scope", "fax", *SAID[4:]), ["fax"]),
        ((*SAID, "--map", "CustomerId"), ["--map CustomerId", "client=CustomerId"]),
        ((*SAID, "--expect", "-1"), ["--expect"]),
        ((*SAID, "--wait-s", "soon"), ["--wait-s"]),
    ],
    ids=str,
)
def test_a_list_that_says_too_little_ends_in_2(
    target: Target, standin: Standin, arguments: tuple[str, ...], words: list[str]
) -> None:
    """The option is named; nothing is taken in, and nothing sent."""
    said = target("opt-out", _withdrawals(target, 2), *arguments)
    assert said.code == 2
    for word in words:
        assert word in said.err
    assert list((target.state / "inbox").iterdir()) == []
    assert standin.requests == 0


def test_a_list_that_cannot_be_read_ends_in_3(target: Target) -> None:
    """It is missing, or has no row that can be taken."""
    missing = target("opt-out", target.folder / "no.csv", *SAID)
    assert (missing.code, "no.csv" in missing.err) == (3, True)
    assert target("opt-out", _withdrawals(target, "x", "y"), *SAID).code == 3


def test_columns_of_a_list_are_mapped(target: Target, standin: Standin) -> None:
    """A list as somebody else writes it; what its rows say wins over the options."""
    path = target.folder / "list.csv"
    path.write_text("CustomerId,when,what\n50,2026-11-03,push\n51,2026-11-03,\n")
    columns = ("--map", "client=CustomerId", "--map", "received_at=when", "--map", "scope=what")
    said = target("opt-out", path, *columns, "--scope", "sms", "--basis", "complaint", "--request-ref", "R-7", "--json")
    assert said.code == 0, said
    assert _held(standin) == {50: (None, None, False, None), 51: (False, None, None, None)}
    out = target.folder / "all.csv"
    assert target("withdrawals", "export", out).code == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["request_ref"] for row in rows} == {"R-7"}


_SMALL = "[guards]\nlist = 1\nlist_share = 0\n[delivery]"


def test_a_large_list_is_taken_in_by_its_number_alone(target: Target, standin: Standin) -> None:
    """Off a terminal it is --expect that says it; without, or with another number, exit 2."""
    target.configure("[delivery]", _SMALL)
    path = _withdrawals(target, 1, 2, 3)
    for expect in ((), ("--expect", "2")):
        said = target("opt-out", path, *SAID, *expect)
        assert (said.code, "say --expect 3" in said.err) == (2, True)
    assert "--expect 3" in target("opt-out", path, *SAID, "--check").out
    assert standin.requests == 0
    assert target("opt-out", path, *SAID, "--expect", "3").code == 0
    assert standin.requests == 3


@pytest.mark.parametrize(("typed", "code"), [("3", 0), ("2", 2), ("", 2)])
def test_on_a_terminal_the_number_of_a_large_list_is_typed(
    target: Target, standin: Standin, monkeypatch: pytest.MonkeyPatch, typed: str, code: int
) -> None:
    """The person reads how many it has, and types that; anything else takes nothing in."""
    target.configure("[delivery]", _SMALL)
    path = _withdrawals(target, 1, 2, 3)
    ours, theirs = os.openpty()
    with os.fdopen(ours, "wb", 0) as person, os.fdopen(theirs) as terminal:
        person.write(f"{typed}\n".encode())
        monkeypatch.setattr(sys, "stdin", terminal)
        said = target("opt-out", path, *SAID)
    assert said.code == code, said.err
    assert "The list has 3 clients" in said.err
    assert standin.requests == (0 if code else 3)


def test_a_list_is_taken_in_now_and_sent_by_a_drain(target: Target, standin: Standin) -> None:
    """With --no-send nothing is sent; the drain sends it; one with nothing to do is silent and leaves no trace."""
    assert target("opt-out", _withdrawals(target, 2), *_lately(), "--no-send").code == 0
    assert standin.requests == 0
    assert json.loads(target("withdrawals", "status", "--json").out)["lists_waiting"] == 1
    assert "1 list in the inbox" in target("plan").out
    assert target("drain") == Said(0, "", "")
    assert standin.requests == 1
    before = json.loads(target("runs", "--json").out)
    assert target("drain") == Said(0, "", "")
    idle = json.loads(target("drain", "--json").out)
    assert (idle["run"], idle["exit"]) == (None, 0)
    assert json.loads(target("runs", "--json").out) == before
    assert standin.requests == 1


def test_a_list_is_taken_in_while_a_run_holds_the_lock(target: Target, standin: Standin) -> None:
    """The command ends in 75 and says so; the list is durable, and whoever comes next sends it."""
    with held_elsewhere(target.state):
        said = target("opt-out", _withdrawals(target, 2), *_lately(), "--wait-s", "0")
        assert said.code == 75
        assert "is taken in" in said.out
        assert "not sent" in said.out
        assert "run 0007-x" in said.out
        assert target("drain", "--wait-s", "0").code == 75
        assert target("withdrawals", "close", "--client", "2", "--reason", "r", "--by", "b").code == 75
    assert target("drain").code == 0
    assert _held(standin) == {2: (False, None, None, None)}


def test_waiting_for_a_run_tries_until_the_lock_is_free() -> None:
    """A second apart and no longer than was said; a pause is not waited for."""
    naps: list[float] = []
    answers: list[Exception | str] = [BusyError("busy"), BusyError("busy"), "done"]

    def act() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert options.waiting(60, Watch(), act, sleep=naps.append) == "done"
    assert naps == [1.0, 1.0]
    answers[:] = [BusyError("busy"), "done"]
    with pytest.raises(BusyError):
        options.waiting(0, Watch(), act, sleep=naps.append)
    answers[:] = [PausedError("paused"), "done"]
    with pytest.raises(PausedError):
        options.waiting(60, Watch(), act, sleep=naps.append)
    assert naps == [1.0, 1.0]


def test_a_run_waits_for_the_lock_as_long_as_it_was_told(target: Target, standin: Standin) -> None:
    """`--wait` is no more than that; the run that holds the lock is named."""
    with held_elsewhere(target.state):
        said = target("run", "--wait", "0.2")
        assert (said.code, "run 0007-x" in said.err) == (75, True)
    assert target("run", "--wait", "0.2").code == 0


def test_a_paused_target_sends_nothing_until_it_is_resumed(target: Target, standin: Standin) -> None:
    """Exit 75 says who and why; a list is taken in all the same."""
    for missing in (("--reason", "r"), ("--by", "b"), ("--reason", " ", "--by", "b")):
        assert target("pause", *missing).code == 2
    said = target("pause", "--reason", "migration", "--by", "operations")
    assert (said.code, "nothing is sent until" in said.out) == (0, True)
    for command in (["run"], ["drain"]):
        stopped = target(*command)
        assert stopped.code == 75
        assert "paused by operations" in stopped.out + stopped.err
        assert "migration" in stopped.out + stopped.err
    assert "paused by operations since" in target("status").out
    taken = target("opt-out", _withdrawals(target, 2), *_lately())
    assert (taken.code, "is taken in" in taken.out) == (75, True)
    assert standin.requests == 0
    assert "resumed; operations had paused it: migration" in target("resume").out
    assert "it was not paused" in target("resume").out
    assert target("drain").code == 0
    assert standin.requests == 1


def test_an_obligation_past_its_limit_ends_in_7_everywhere(dead: Target) -> None:
    """The opt-out itself, each run and drain, and the status; the report says which command lists them."""
    assert dead.init("equal", 0).code == 0
    said = dead("opt-out", _withdrawals(dead, 2, 3), "--received-at", _ago(5), *SAID[2:])
    assert said.code == 7
    assert "2 to be tried again" in said.out
    for command in (["run"], ["drain"], ["withdrawals", "status"]):
        assert dead(*command).code == 7, command
    status = json.loads(dead("withdrawals", "status", "--json").out)
    assert (status["open"], status["past_limit"], status["parked"]) == (2, 2, 0)
    assert "2 are past their limit" in dead("withdrawals", "status").out
    report = dead("report").out
    assert "withdrawals status" in report
    assert re.search(r"^ *Of them past the limit +2$", report, re.M)
    assert dead("withdrawals", "close", "--client", "2", "--reason", "phoned", "--by", "DPO").code == 7, (
        "client 3 is owed one still"
    )
    again = dead("withdrawals", "close", "--client", "2", "--reason", "wrote", "--by", "DPO")
    assert (again.code, "Nothing is owed to client 2" in again.err) == (2, True)
    assert dead("withdrawals", "close", "--client", "3", "--reason", "", "--by", "DPO").code == 2
    assert json.loads(dead("withdrawals", "status", "--json").out)["open"] == 1


def test_who_the_platform_does_not_know_is_told_apart(tmp_path: Path, cli: Cli) -> None:
    """Parked: exit 1 once, no alarm after, and a person may close it."""
    with running(Options(unknown_every=5)) as platform:
        made = Target(tmp_path / "target", platform.url, cli)
        assert made.init().code == 0
        said = made("opt-out", _withdrawals(made, 10), *SAID)
        assert (said.code, "1 not known to the platform" in said.out) == (1, True)
        assert made("withdrawals", "status").code == 0
        assert "1 more are parked" in made("withdrawals", "status").out
        shown = made("snapshot", "show", "10").out
        assert "Sms" in shown
        assert "parked" in shown


def test_the_report_of_withdrawals_says_how_fast(target: Target, standin: Standin) -> None:
    """Between two times, with or without an end; a time that is none ends in 2."""
    _known(target, standin)
    assert target("opt-out", _withdrawals(target, 1, 2), "--received-at", _ago(0.5), *SAID[2:]).code == 0
    said = target("withdrawals", "report", "--from", "2026-01-01", "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert (found["received"], found["acknowledged"], found["late"], found["withdrawn_and_allowed"]) == (2, 2, 0, 0)
    before = json.loads(target("withdrawals", "report", "--from", "2020-01-01", "--to", "2020-02-01", "--json").out)
    assert before["received"] == 0
    assert "(must be 0)" in target("withdrawals", "report", "--from", _ago(1)).out
    assert target("withdrawals", "report", "--from", "soon").code == 2


def test_a_wrong_list_is_taken_back_by_two_people(target: Target, standin: Standin) -> None:
    """By the beginning of its digest; by one person, twice, or a list that is none, ends in 2."""
    _known(target, standin)
    assert target("opt-out", _withdrawals(target, 1, 2), *SAID).code == 0
    digest = json.loads(target("withdrawals", "status", "--json").out)["lists"][0]["digest"]
    void = ("withdrawals", "void", "--reason", "wrong file", "--by", "A", "--approved-by")
    assert target(*void, "A", "--list", digest[:8]).code == 2
    assert target(*void, "B", "--list", "ffffffffffff").code == 2
    found = json.loads(target(*void, "B", "--list", digest[:8], "--json").out)
    assert (found["withdrawals"], found["obligations"], found["kept"]) == (2, 0, 0)
    assert target(*void, "B", "--list", digest[:8]).code == 0, "it is so already"
    assert target(*void, "C", "--list", digest[:8]).code == 2
    assert target("run").code == 0
    assert _held(standin) == HELD, "two re-grants are below the guard's floor"


def test_evidence_lifts_a_withdrawal(target: Target, standin: Standin) -> None:
    """What is lifted may be granted by the next export; what is not is told with its rule, and ends in 1."""
    _known(target, standin)
    assert target("opt-out", _withdrawals(target, 2), *SAID).code == 0
    assert target("run").code == 0
    assert _held(standin)[2] == (False, True, True, True)
    ledger = target.folder / "evidence.csv"
    header = "Client,channels,granted_at,method,evidence_ref\n"
    ledger.write_text(f"{header}2,sms,2026-11-10,form,F-1\n4,sms,2026-11-10,form,F-2\n")
    said = target("reconsent", ledger, "--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert (found["lifted"], [one["client"] for one in found["refused"]]) == (1, [4])
    assert target("run").code == 0
    assert _held(standin) == HELD
    assert "client 4" in target("reconsent", ledger).out
    assert target("reconsent", target.folder / "no.csv").code == 3


def test_what_was_withdrawn_is_shown_of_single_clients(target: Target, standin: Standin) -> None:
    """Channels, what is owed and until when, as words and as JSON."""
    assert target("opt-out", _withdrawals(target, 2), *SAID).code == 0
    (one,) = json.loads(target("snapshot", "show", "2", "--json").out)["clients"]
    assert (one["withdrawn"], one["owed"], one["parked"]) == (["Sms"], [], False)
    standin.stop()
    assert target("opt-out", _withdrawals(target, 3), "--received-at", _ago(0.1), *SAID[2:]).code == 5
    (one,) = json.loads(target("snapshot", "show", "3", "--json").out)["clients"]
    ((owed),) = one["owed"]
    assert (owed["owed"], owed["source"]) == ("Sms", "withdrawal")
    assert owed["limit_at"] - owed["started"] == 48 * 3600
    assert "owed until" in target("snapshot", "show", "3").out


# Several targets


class Brands(NamedTuple):
    """Two targets on one host, and a folder with their configurations."""

    first: Target
    second: Target
    configs: Path


@pytest.fixture
def brands(tmp_path: Path, cli: Cli, standin: Standin) -> Brands:
    """Return two brands with state, of one platform."""
    configs = tmp_path / "configs"
    configs.mkdir()
    made = []
    for name in ("first", "second"):
        one = Target(tmp_path / name, standin.url, cli)
        text = one.config.read_text().replace('path = "export.csv"', f'path = "{one.export}"')
        text += f'[state]\npath = "{one.state}"\nkeys = "{one.folder}/keys"\n[report]\npath = "{one.folder}/reports"\n'
        one.config = configs / f"{name}.toml"
        one.config.write_text(text)
        assert one.init("equal", 0).code == 0
        made.append(one)
    first, second = made
    return Brands(first, second, configs)


def test_a_list_goes_to_every_brand_of_a_folder(brands: Brands, cli: Cli, standin: Standin) -> None:
    """Or to those that are named; each has a place of its own in the answer."""
    path = _withdrawals(brands.first, 2)
    named = [argument for one in brands[:2] for argument in ("--config", one.config)]
    for where in (["--config", brands.configs], named):
        said = cli("opt-out", path, *SAID, *where, "--json")
        assert said.code == 0, said
        found = json.loads(said.out)
        assert list(found) == ["targets"]
        assert [one["sent"]["acknowledged"] for one in found["targets"]] == [1, 1]
    assert standin.requests == 2
    words = cli("withdrawals", "status", "--config", brands.configs)
    assert words.out.count(f"owed at {standin.url}") == 2
    single = json.loads(cli("withdrawals", "status", "--config", brands.first.config, "--json").out)
    assert "targets" not in single


def test_an_error_at_one_brand_keeps_no_other_waiting(brands: Brands, cli: Cli, standin: Standin) -> None:
    """The list is durable at both; the one that can send sends, and the exit code is of the graver."""
    path, lately = _withdrawals(brands.first, 2), _lately()
    snapshot = brands.first.state / "snapshots" / "1.parquet"
    whole = snapshot.read_bytes()
    snapshot.write_bytes(whole[:-1])
    said = cli("opt-out", path, *lately, "--config", brands.configs, "--json")
    assert said.code == 4, said
    broken, other = json.loads(said.out)["targets"]
    assert (broken["exit"], f"{snapshot}: damaged" in broken["error"]) == (4, True)
    assert other["sent"]["acknowledged"] == 1
    kept = [json.loads(one("withdrawals", "status", "--json").out) for one in brands[:2]]
    assert [(one["open"], one["lists"][0]["digest"]) for one in kept] == [(1, broken["list"]), (0, broken["list"])]
    words = cli("opt-out", path, *lately, "--config", brands.configs).out
    assert f"not sent   {snapshot}: damaged" in words
    drained = json.loads(cli("drain", "--config", brands.configs, "--json").out)["targets"]
    assert [one["exit"] for one in drained] == [4, 0]
    snapshot.write_bytes(whole)
    assert cli("drain", "--config", brands.configs).code == 0
    assert standin.requests == 2


def test_a_busy_brand_delays_no_other(brands: Brands, cli: Cli, standin: Standin) -> None:
    """Both are tried before either is waited for."""
    path = _withdrawals(brands.first, 2)
    with held_elsewhere(brands.first.state):
        said = cli("opt-out", path, *_lately(), "--config", brands.configs, "--wait-s", "0", "--json")
    assert said.code == 75
    busy, free = json.loads(said.out)["targets"]
    assert (bool(busy["busy"]), free["sent"]["acknowledged"]) == (True, 1)


def test_what_one_brand_lacks_is_done_at_the_other(brands: Brands, cli: Cli) -> None:
    """A list of one brand alone is void there, and the other says that it has none: exit 1; if none has it, 2."""
    assert brands.second("opt-out", _withdrawals(brands.second, 2), *SAID).code == 0
    digest = json.loads(brands.second("withdrawals", "status", "--json").out)["lists"][0]["digest"]
    void = ("withdrawals", "void", "--reason", "r", "--by", "A", "--approved-by", "B", "--config", brands.configs)
    said = cli(*void, "--list", digest[:8], "--json")
    assert said.code == 1, said
    first, second = json.loads(said.out)["targets"]
    assert set(first) == {"target", "error", "exit"}
    assert second["withdrawals"] == 1
    again = cli(*void, "--list", digest[:8])
    assert (again.code, "since" in again.out) == (1, True), "the other brand still has no such list"


def test_the_status_of_a_whole_brand_is_shown_beside_a_damaged_one(brands: Brands, cli: Cli) -> None:
    """The damage is the exit code; what the other owes is not hidden by it."""
    assert brands.second("opt-out", _withdrawals(brands.second, 2), *SAID).code == 0
    (brands.first.state / "ledger.db").write_bytes(b"no database at all, " * 1000)
    said = cli("withdrawals", "status", "--config", brands.configs)
    assert said.code == 4
    assert "damaged" in said.out
    assert "owed at" in said.out


def test_configurations_that_contradict_each_other_end_in_2(brands: Brands, cli: Cli) -> None:
    """An empty folder; two that share a state and say different things of withdrawals; one file for two brands."""
    path = _withdrawals(brands.first, 2)
    empty = brands.first.folder / "none"
    empty.mkdir()
    said = cli("opt-out", path, *SAID, "--config", empty)
    assert (said.code, "no configuration (*.toml)" in said.err) == (2, True)
    out = cli("withdrawals", "export", brands.first.folder / "all.csv", "--config", brands.configs)
    assert (out.code, "one configuration at a time" in out.err) == (2, True)
    other = brands.first.config.read_text() + '[withdrawals]\nscope = "all"\n'
    (brands.configs / "third.toml").write_text(other)
    said = cli("opt-out", path, *SAID, "--config", brands.configs)
    assert (said.code, "[withdrawals]" in said.err) == (2, True)


# What a run would not do by itself


@pytest.fixture
def careful(target: Target, standin: Standin) -> Target:
    """Return a target whose platform is up to date, that lets no re-grant and no lost consent pass."""
    assert target("run").code == 0
    target.configure("[delivery]", "[guards]\nre_grants = 0\nre_grants_share = 0\n[delivery]")
    target.export.write_text(GOOD.replace("3,false,false,false,false", "3,true,false,false,false"))
    return target


def _command(shown: str, **said: str) -> list[str]:
    """Return the arguments of the command that a report shows, with what it leaves to the person filled in."""
    (line,) = [line for line in shown.splitlines() if " consent-sync approve " in line]
    arguments = shlex.split(line[line.index("consent-sync ") :])[1:]
    for name, value in said.items():
        arguments[arguments.index(f"--{name}") + 1] = value
    return arguments


def test_what_was_held_is_let_through_by_the_command_that_the_report_shows(
    careful: Target, cli: Cli, standin: Standin
) -> None:
    """The first lines say what, why and how; that very command approves it, and the next run sends it."""
    sent = standin.requests
    said = careful("run")
    assert said.code == 6
    assert standin.requests == sent
    first = said.out.splitlines()[1:3]
    assert first[0].startswith("  ! 1 re-grants, more than 0: held until approved (held.csv)")
    assert first[1].startswith("  approve    consent-sync approve 3 --grants 1 ")
    assert "held.csv" in said.out
    listed = careful("approve").out
    assert "re-grants" in listed
    assert json.loads(careful("approve", "--json").out)["held"][0]["grants"] == 1
    approved = cli(*_command(said.out, reason="campaign", by="CRM lead"))
    assert (approved.code, approved.out.startswith("approved: 1 grants of run 0003-")) == (0, True)
    assert standin.requests == sent
    done = careful("run", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert [(one["by"], one["reason"], one["count"]) for one in found["approvals"]] == [("CRM lead", "campaign", 1)]
    assert "by CRM lead: campaign" in careful("report").out
    assert _held(standin)[3] == (True, False, False, False)


def test_an_approval_may_run_at_once(careful: Target, standin: Standin) -> None:
    """`--now` runs, with the export that is named; the answer is the run's."""
    assert careful("run").code == 6
    moved = careful.export.rename(careful.folder / "tonight.csv")
    said = careful("approve", "3", moved, "--grants", "1", "--reason", "r", "--by", "b", "--now", "--json")
    assert said.code == 0, said
    assert json.loads(said.out)["outcomes"]["delivered"] == 1
    assert _held(standin)[3] == (True, False, False, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("3", "--grants", "2"), "held 1 clients' grants, not 2"),
        (("3", "--revocations", "1"), "held no revocations"),
        (("3", "--clients", "9"), "has 4 clients, not 9"),
        (("77", "--grants", "1"), "Run 77 held nothing"),
        (("3",), "say one of"),
        (("3", "--grants", "1", "--clients", "4"), "say one of"),
        (("3", "export.csv", "--grants", "1"), "say --now"),
        (("--grants", "1"), "which RUN"),
        (("3", "--grants", "0"), "--grants"),
    ],
    ids=str,
)
def test_an_approval_that_is_not_of_what_was_held_ends_in_2(
    careful: Target, standin: Standin, arguments: tuple[str, ...], words: str
) -> None:
    """Nothing is approved, and the next run holds the same."""
    assert careful("run").code == 6
    said = careful("approve", *arguments, "--reason", "r", "--by", "b")
    assert said.code == 2
    assert words in said.err
    assert careful("run").code == 6


def test_an_approval_is_signed(careful: Target) -> None:
    """Without why or who it is none."""
    assert careful("run").code == 6
    for said in (("--reason", "r"), ("--by", "b")):
        assert careful("approve", "3", "--grants", "1", *said).code == 2


def test_a_plan_says_what_a_run_would_hold(careful: Target, standin: Standin) -> None:
    """Exit 6; there is no run yet whose held set could be approved."""
    before = careful.files()
    said = careful("plan")
    assert said.code == 6
    assert said.out.splitlines()[1].startswith("  ! 1 re-grants, more than 0: held until approved (held.csv)")
    assert "when a run has held it: consent-sync approve RUN --grants 1" in said.out
    assert json.loads(careful("plan", "--json").out)["approvable"]["grants"] == 1
    assert careful.files() == before


def test_a_restored_backup_grants_nothing_until_somebody_says_what_it_lacks(target: Target, standin: Standin) -> None:
    """Exit 4 while it lacks a withdrawal; a list still goes; then `state restored`, signed."""
    target.configure("linger_s = 0.2", "linger_s = 0.01")  # over by the next command: until then everyone lingers
    _known(target, standin)
    backup = target.folder / "backup"
    shutil.copytree(target.state, backup)
    assert target("opt-out", _withdrawals(target, 2), *SAID).code == 0
    shutil.rmtree(target.state)
    backup.rename(target.state)
    said = target("run")
    assert said.code == 4
    assert "state restored" in said.err
    restored = ("state", "restored", "--by", "operations")
    for wrong in (restored, (*restored, "--none", "--withdrawals-since", "x.csv"), ("state", "restored", "--none")):
        assert target(*wrong).code == 2
    since = _withdrawals(target, 2, name="since.csv")
    found = json.loads(target(*restored, "--withdrawals-since", since, *SAID, "--json").out)
    assert found["withdrawals_since"] == 1
    assert target("run").code in (0, 1)
    assert _held(standin)[2] == (False, True, True, True)
    again = target(*restored, "--none")
    assert (again.code, "not a restored backup" in again.err) == (2, True)


# What a run is asked for


def test_yesterdays_export_is_noticed(target: Target, standin: Standin) -> None:
    """With --require-new the same file with nothing left to send ends in 3, and says so; without, in 0."""
    assert target("run", "--require-new").code == 0
    said = target("run", "--require-new")
    assert said.code == 3
    assert "the same file as last time" in said.out
    assert target("run").code == 0


def test_a_part_is_read_in_the_place_of_the_export(target: Target, standin: Standin) -> None:
    """It says nothing of those whom it lacks; both at once ends in 2."""
    part = target.folder / "repaired.csv"
    part.write_text(f"{HEADER}\n9,false,,,\n")
    assert json.loads(target("plan", "--part", part, "--json").out)["decided"]["absent"] == 0
    assert target("run", "--part", part).code == 0
    assert _held(standin)[9] == (False, None, None, None)
    for command in ("run", "plan"):
        both = target(command, target.export, "--part", part)
        assert (both.code, "--part" in both.err) == (2, True)


def test_the_age_of_an_export_is_said_on_the_command_line(target: Target, standin: Standin) -> None:
    """With as_of = "flag": without it exit 2, an old one grants nothing (6), one of the future ends in 3."""
    target.configure('as_of = "none"', 'as_of = "flag"')
    for command in ("run", "plan", "check"):
        said = target(command)
        assert (said.code, "--as-of" in said.err) == (2, True), command
        assert target(command, "--as-of", "soon").code == 2
    assert target("check", "--as-of", _ago(0.1)).code == 0
    assert target("run", "--as-of", _ago(-1)).code == 3
    old = target("plan", "--as-of", _ago(3))
    assert old.code == 6
    assert "72.0 h old" in old.out
    assert "may not grant" in old.out.splitlines()[1]
    assert target("run", "--as-of", _ago(0.5)).code == 6, "what was denied since is not allowed by it"
    assert "12 h old" in target("report").out
    assert target("run", "--as-of", _ago(0)).code == 0
    assert _held(standin) == HELD


def test_an_export_without_an_age_is_told_each_night(target: Target) -> None:
    """as_of = "none" is a choice, and the report says so."""
    assert target("run").code == 0
    assert "The age of the export is not checked ([export] as_of = none)." in target("report").out


def test_init_takes_those_who_withdrew_before(dead: Target, cli: Cli) -> None:
    """Nobody on the list is granted what it covers; one of the list and --no-withdrawals has to be said."""
    path = _withdrawals(dead, 2)
    init = ("init", dead.export, "--platform", "empty", "--approve-grants", str(GRANTS))
    assert dead(*init).code == 2
    assert dead(*init, "--withdrawals", path, "--no-withdrawals").code == 2
    less = dead(*init, "--withdrawals", path, "--received-at", "2026-11-02", "--scope", "all", "--basis", "objection")
    assert (less.code, f"--approve-grants {GRANTS - 1}" in less.err) == (2, True)
    assert not dead.state.exists()
    assert dead(*init, "--withdrawals", path, "--received-at", _ago(0.5), *SAID[2:]).code == 0
    assert json.loads(dead("withdrawals", "status", "--json").out)["open"] == 1
    (one,) = json.loads(dead("snapshot", "show", "2", "--json").out)["clients"]
    assert one["withdrawn"] == ["Sms"]


# Single clients


def test_everything_of_a_client_is_explained_and_what_was_sent_is_listed(target: Target, standin: Standin) -> None:
    """In words and as one object; nothing is changed, and nothing sent."""
    assert target("run").code == 0
    before, sent = target.files(), standin.requests
    for command in ("explain", "history"):
        assert f"client 2 at {standin.url}" in target(command, "2").out
        assert json.loads(target(command, "2", "--json").out)["client"] == 2
        assert target(command, "0").code == 2
    assert (target.files(), standin.requests) == (before, sent)


def test_an_erased_client_is_nowhere(target: Target, standin: Standin) -> None:
    """Denied first, then gone; the next export is not heard of it."""
    assert target("run").code == 0
    signed = ("--reason", "asked by letter", "--by", "Ann")
    said = target("forget", "--client", "2", "--request-ref", "R-1", *signed, "--json")
    assert said.code == 0, said
    assert json.loads(said.out)["forgotten"] == 1
    assert "not known" in target("snapshot", "show", "2").out
    sent = standin.requests
    assert target("run").code == 0
    assert standin.requests == sent
    assert target("forget").code == 2


def test_a_dump_that_allows_what_was_withdrawn_ends_in_1(target: Target, standin: Standin) -> None:
    """And a denial is owed from then on."""
    assert target("run").code == 0
    assert target("compare", target.export).code == 0
    assert target("opt-out", _withdrawals(target, 2), *SAID).code == 0
    said = target("compare", target.export, "--json")
    assert said.code == 1
    assert json.loads(said.out)["withdrawn_but_allowed"] == 1
    assert target("drain").code == 0


# Exit codes and help


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (ConfigError("mend it"), 2, "consent-sync: mend it"),
        (ExportError("mend it"), 3, "consent-sync: mend it"),
        (StateError("mend it"), 4, "consent-sync: mend it"),
        (EndpointError("away"), 5, "consent-sync: away"),
        (PausedError("paused"), 75, "consent-sync: paused"),
        (CountsError("one too many"), 70, "Traceback"),
        (RuntimeError("a bug"), 70, "please report the lines above"),
        (MemoryError(), 70, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=repr,
)
def test_every_error_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, words: str
) -> None:
    """A message on standard error, and nothing on standard output."""
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise raised
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert words in err


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_ended_from_outside_finishes_what_is_in_flight(
    tmp_path: Path, cli: Cli, signal_: signal.Signals, code: int
) -> None:
    """It reports, ends in 130 or 143, and the next run sends the rest."""
    with running(Options(latency_ms=20)) as platform:
        made = Target(tmp_path / "target", platform.url, cli)
        made.export.write_text(
            HEADER + "\n" + "".join(f"{client},false,false,false,false\n" for client in range(1, 2001))
        )
        made.configure("[delivery]", "[delivery]\nmax_concurrency = 2")
        assert made.init("empty", 0).code == 0
        run = subprocess.Popen(
            [sys.executable, "-m", "sync_job", "run", "--config", made.config, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ends = time.monotonic() + 60
        while not platform.requests and run.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)  # another process is waited for
        run.send_signal(signal_)
        out, err = run.communicate(timeout=60)
        assert run.returncode == code, err
        assert json.loads(out)["outcomes"]["deferred"] > 0


def _commands() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command; the object is the command-line library's own."""
    top: Any = typer.main.get_command(app)
    for name, command in top.commands.items():
        inner = getattr(command, "commands", None)
        yield from ((name, one) for one in inner) if inner else [(name,)]
