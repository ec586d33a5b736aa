"""Where ids, preferences and secrets may stand, and where they may not: everything that a run writes is searched."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sync_job.standin.background import running
from sync_job.standin.contract import Answer
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.listener import listening
from tests.shop import FIELDS, Shop

FIRST = 1_987_654_321  # an id that nothing else looks like
TOKEN, BEARER, ADDRESS = "55512345", "hush-hush-hush", "T00-hush-B00"
ENVIRONMENT = {
    "CONSENT_SYNC__ENDPOINT__TOKEN": TOKEN,
    "CONSENT_SYNC__ENDPOINT__AUTH__KIND": "bearer",
    "CONSENT_SYNC__ENDPOINT__AUTH__BEARER": BEARER,
}


Command = Callable[..., str]


@pytest.fixture
def command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return everything that a command prints and logs."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def call(shop: Shop, *arguments: str | int | Path) -> str:
        said = cli("--log-format", "json", *arguments, "--config", shop.config)
        assert said.code in (0, 1, 6, 7), said
        return said.out + said.err

    return call


def process(shop: Shop, *arguments: str) -> str:
    """Return everything that a command writes in a process of its own, from its start to its end."""
    ended = subprocess.run(
        [sys.executable, "-m", "sync_job", "--log-format", "json", *arguments, "--config", shop.config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in (0, 1, 6, 7), ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_ids_stand_in_lists_alone_and_secrets_nowhere(tmp_path: Path, command: Command) -> None:
    """Not in logs, words, summaries or what a run shows of itself; also when the platform names a client."""
    refusal = Answer(3, f"Client {FIRST + 2} is locked")
    script = {FIRST + 2: Fault.REFUSE}
    with running(Options(script=lambda number, client: script.get(client), refusal=refusal)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({FIRST + place: (True, place % 2 == 0, False, False) for place in range(30)})
        said = command(shop, "init", shop.export, "--platform", "unknown", "--no-withdrawals")
        (tmp_path / "list.csv").write_text("".join(f"{FIRST + place}\n" for place in (2, 5, 7)) + "no id\n")
        said += process(shop, "run", "--json")
        said += command(shop, "opt-out", tmp_path / "list.csv", "--received-at", "2026-11-24")
        said += command(shop, "plan")
        said += command(shop, "run")
        said += command(shop, "drain")
        said += command(shop, "report")
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        for path in kept:
            content = path.read_bytes()
            assert BEARER.encode() not in content, path
            assert TOKEN.encode() not in content, path
            if path.name in ("summary.json", "running.json", "paused.json") or path.parent.name == "keys":
                assert b"19876543" not in content, path
        for secret in ("19876543", TOKEN, BEARER):
            assert secret not in said, [line for line in said.splitlines() if secret in line]


@pytest.mark.parametrize("level", ["info", "debug"])
def test_log_lines_and_notifications_name_nobody(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """Of a night in which everything goes wrong: no id at INFO and above, and no consent and no secret at any level."""
    script = {FIRST + 2: Fault.REFUSE, FIRST + 3: Fault.ERROR_BEFORE, FIRST + 4: Fault.RESET_AFTER}
    options = Options(
        script=lambda _, client: script.get(client),
        refusal=Answer(3, f"Client {FIRST + 2} is locked"),
        bearer_token=BEARER,
    )
    with running(options) as platform, listening() as there:
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CONSENT_SYNC__NOTIFY__WEBHOOK", f"{there.url}/hook/{ADDRESS}")
        monkeypatch.setenv("CONSENT_SYNC__NOTIFY__PING", f"{there.url}/ping/{ADDRESS}")
        monkeypatch.setenv("CONSENT_SYNC__NOTIFY__PING_KINDS", "init,run,opt-out,drain")
        monkeypatch.setenv("CONSENT_SYNC__NOTIFY__WHEN", "always")
        monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATTEMPTS", "2")
        shop = Shop(tmp_path, platform.url)
        shop.write({FIRST + place: (True, place % 2 == 0, False, False) for place in range(30)})
        (tmp_path / "list.csv").write_text("".join(f"{FIRST + place}\n" for place in (2, 5, 7)))
        logged: list[str] = []
        for arguments in (
            ("init", shop.export, "--platform", "unknown", "--no-withdrawals"),
            ("run",),
            ("opt-out", tmp_path / "list.csv", "--received-at", "2026-11-24"),
            ("drain",),
            ("run",),
            ("notify",),
        ):
            said = cli("--log-format", "json", "--log-level", level, *arguments, "--config", shop.config)
            assert said.code in (0, 1, 5, 6, 7), said
            logged += said.err.splitlines()
        sent = [f"{one.content_type} {one.body}" for one in there.posts]
    events = {json.loads(line)["event"] for line in logged if line.startswith("{")}
    assert {"run.ended", "list.absorbed", "change.refused", "change.exhausted", "notify.sent"} <= events
    assert len(sent) > 10
    never = (TOKEN, BEARER, ADDRESS, *FIELDS)
    for line in [*logged, *sent]:
        assert not [word for word in never if word in line], line
    for line in [*(logged if level == "info" else []), *sent]:
        assert "19876543" not in line, line


def test_everything_with_ids_is_for_this_user_alone(tmp_path: Path, command: Command) -> None:
    """State, keys, reports: files 0600 (the key 0400), folders 0700, whatever the umask."""
    with running(Options()) as platform:
        before = os.umask(0)
        try:
            shop = Shop(tmp_path, platform.url)
            shop.write({FIRST + place: (True, False, None, None) for place in range(5)})
            shop.init("equal")
            shop.withdraw({FIRST: "all"})
            command(shop, "run")
            command(shop, "forget", "--client", FIRST + 1, "--reason", "asked by letter", "--by", "Ann")
        finally:
            os.umask(before)
        for name in ("state", "keys", "reports"):
            for path in [tmp_path / name, *(tmp_path / name).rglob("*")]:
                mode = path.stat().st_mode & 0o777
                wanted = 0o700 if path.is_dir() else 0o400 if path.name == "tombstones.key" else 0o600
                assert mode == wanted, f"{path.relative_to(tmp_path)} has mode {mode:o}"


@pytest.mark.parametrize("name", ["state", "keys"])
def test_looser_modes_are_refused(tmp_path: Path, cli: Cli, name: str) -> None:
    """A folder that others may enter ends in 4, with the command that mends it."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({1: (True, False, None, None)})
        shop.init("equal")
        (tmp_path / name).chmod(0o750)
        said = cli("run", "--config", shop.config)
        assert said.code == 4
        assert f"chmod 700 {tmp_path / name}" in said.err
