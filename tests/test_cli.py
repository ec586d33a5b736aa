import contextlib
import csv
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sync_job.cli import main
from sync_job.ledger import tables
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
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


class Said(NamedTuple):
    """What a command ended with and printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line within this process; a traceback is never printed."""

    def call(*arguments: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Said(code or 0, out, err)

    return call


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
        (GOOD.replace(",", ";").encode(), ["separated by commas"]),
        (b"\x1f\x8b\x08\0\0\0\0", ["compressed with gzip", "unpack it"]),
        (b"PK\x03\x04abc", ["Excel workbook", "save the sheet as CSV"]),
        (GOOD.encode("utf-16"), ["UTF-16", "save it as UTF-8"]),
        (b"PAR1" + b"x" * 100, ["Parquet"]),
    ],
    ids=["none", "empty", "header", "column", "client", "semicolons", "gzip", "excel", "utf16", "parquet"],
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
    """Each command has a line that says what it does."""
    said = cli("--help")
    assert said.code == 0
    for command in ("init", "run", "plan", "apply", "check", "try", "snapshot", "runs", "report", "status", "standin"):
        assert command in said.out
        assert cli(command, "--help").code == 0
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
        assert "0007-x is sending, 3 of 9" in target("status").out
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
        ("leg", "the plan of a leg"),
        ("cut", "damaged"),
        ("none", "it is missing"),
        ("text", "no plan that can be read"),
    ],
)
def test_a_plan_that_may_not_be_sent_ends_in_2(target: Target, standin: Standin, harm: str, words: str) -> None:
    """Nothing is sent, and the run leaves no trace."""
    path = _planned(target)
    rows, about = tables.read_plan(path)
    changes: dict[str, dict[str, Any]] = {
        "old": {"made": about["made"] - 25 * 3600},
        "early": {"made": about["made"] + 3600},
        "foreign": {"target": "http://elsewhere operator 1"},
        "restated": {"restate": "never"},
    }
    if harm in changes:
        tables.write_plan(path, rows, about | changes[harm])
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
    assert one == {"Client": 1, "known": True, **dict(zip(FIELDS, HELD[1], strict=True)), "due": "----"}
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
    assert "exit 0: all delivered" in target("report").out
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
