"""Holds the rooms to what they may import, and the quick commands to what they may load."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sync_job

ROOT = Path(sync_job.__file__).parent

# Rooms and the modules beside them, each with what it may import; docs/architecture.md has the same table.
MAY_IMPORT = {
    "errors": set[str](),
    "consent": set[str](),
    "standin": set[str](),
    "config": {"consent", "errors"},
    "exports": {"consent", "config", "errors"},
    "delivery": {"consent", "config", "errors"},
    "ledger": {"consent", "config", "errors"},
    "report": {"consent", "config", "errors"},
    "runs": {"consent", "config", "errors", "exports", "delivery", "ledger", "report"},
    "cli": {"runs", "errors", "config", "report", "delivery.verdict", "standin"},
    "__main__": {"cli"},
    "__init__": {"config", "exports", "ledger", "report", "runs"},
}
INIT = ("--platform", "unknown", "--no-withdrawals")
SLOW = ("aiohttp", "pandas", "matplotlib")
# pyarrow imports pandas itself, wherever it is installed, as soon as it turns a Python value into a column.
PYARROWS = {"pandas"}


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imported(path: Path) -> Iterator[str]:
    """Yield what of sync_job a file imports, anywhere in it, without the leading `sync_job.`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            # `from sync_job.runs import night` imports sync_job.runs.night; a class is of the module before it.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.removeprefix("sync_job.") for name in names if name.startswith("sync_job."))


def _allowed(room: str, name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in (MAY_IMPORT[room] | {room}))


def test_every_room_is_in_the_table() -> None:
    """No room or module of the package is without a rule, and no rule without a room."""
    found = {_room(path) for path in ROOT.rglob("*.py")}
    assert found == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_room_imports_only_what_it_may(room: str) -> None:
    """Each room imports its own modules and those that the table names, be it inside a function."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted(ROOT.rglob("*.py"))
        if _room(path) == room
        for name in _imported(path)
        if not _allowed(room, name)
    ]
    assert not wrong


def _loaded(*arguments: str) -> set[str]:
    """Run the command in a process of its own, and return the slow packages that it has loaded at its end."""
    code = (
        "import json, sys\n"
        "from sync_job.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print(json.dumps([name for name in {SLOW!r} if name in sys.modules]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.fixture
def target(tmp_path: Path) -> tuple[str, str]:
    """Return an export of two clients, and the configuration of a target whose state was made from it."""
    export, config = tmp_path / "export.csv", tmp_path / "nightly.toml"
    export.write_text("Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n1,true,false,,1\n2,0,0,0,0\n")
    config.write_text('[export]\nas_of = "none"\n[endpoint]\nbase_url = "http://127.0.0.1:9"\n')
    subprocess.run(
        [sys.executable, "-m", "sync_job", "init", export, "--config", config, *INIT],
        check=True,
    )
    return str(export), str(config)


def test_help_starts_without_slow_packages() -> None:
    """`--help` needs neither HTTP nor tables for people nor charts."""
    assert _loaded("--help") == set()


def test_check_starts_without_slow_packages(target: tuple[str, str]) -> None:
    """`check` reads an export without aiohttp or matplotlib."""
    export, config = target
    assert _loaded("check", export, "--config", config) <= PYARROWS


def test_plan_starts_without_slow_packages(target: tuple[str, str]) -> None:
    """`plan` reads, decides and shows without aiohttp or matplotlib."""
    export, config = target
    assert _loaded("plan", export, "--config", config) <= PYARROWS


def test_importing_the_package_loads_no_slow_packages() -> None:
    """`import sync_job` alone is cheap: each function brings what it needs."""
    code = f"import sys, sync_job; sys.exit(any(name in sys.modules for name in {SLOW!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
