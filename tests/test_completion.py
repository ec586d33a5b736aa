"""What shells offer behind the tab key: asked as bash asks, with the script that is printed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sync_job.cli import completing
from tests.commands import Cli

BIN = Path(sys.executable).parent
RUNS = ("0001-20261101T021500Z", "0002-20261102T021500Z", "0011-20261103T021500Z")
_ASK = """
source "$SCRIPT"
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
compopt() { told+="$*"; }
_consent_sync_completion consent-sync
printf '%s\\n' "${COMPREPLY[@]}"
printf '%s' "$told" >&2
"""


def command(name: str) -> str:
    """Return the path of a shell; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"the {name} command is missing, whose completion it is")
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with two configurations, other files, and reports."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inner.toml").write_text("")
    (tmp_path / "nightly.toml").write_text('[report]\npath = "out/reports"\n')
    (tmp_path / "plain.toml").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".script").write_text(completing.script("bash"))
    for name in (*RUNS, "compare-20261103T021500Z"):
        (tmp_path / "out" / "reports" / name).mkdir(parents=True)
    return tmp_path


def ask(folder: Path, *words: str) -> tuple[list[str], str]:
    """Return what bash offers for the last of *words*, and what it was told about how."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        [command("bash"), "--norc", "-c", _ASK, "bash", "consent-sync", *words],
        cwd=folder,
        env=os.environ | {"PATH": path, "SCRIPT": str(folder / ".script")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [line for line in ended.stdout.splitlines() if line], ended.stderr


def test_commands_and_their_options_are_offered(place: Path) -> None:
    """By their beginning; those of a group behind it."""
    assert {"run", "doctor", "opt-out", "state"} <= set(ask(place, "")[0])
    assert ask(place, "d")[0] == ["drain", "doctor"]
    assert ask(place, "state", "re")[0] == ["restored", "repair", "restore", "retarget"]
    assert ask(place, "doctor", "--o")[0] == ["--offline"]
    assert ask(place, "--log-format", "j")[0] == ["json"]
    assert ask(place, "completion", "")[0] == ["bash", "zsh", "fish"]


def test_configurations_are_offered_behind_config(place: Path) -> None:
    """*.toml and folders, and nothing else; a folder alone is no end of a name."""
    assert ask(place, "run", "--config", "")[0] == ["configs/", "nightly.toml", "out/", "plain.toml"]
    offered, told = ask(place, "run", "-c", "con")
    assert offered == ["configs/"]
    assert "nospace" in told
    offered, told = ask(place, "run", "-c", "configs/")
    assert offered == ["configs/inner.toml"]
    assert "nospace" not in told


def test_runs_are_offered_where_the_configuration_is_known(place: Path) -> None:
    """Ids of reports, the newest first; without a configuration, or with one that cannot be read, none."""
    newest = list(reversed(RUNS))
    assert ask(place, "report", "-c", "nightly.toml", "")[0] == newest
    assert ask(place, "undo", "--config", "nightly.toml", "0001")[0] == [RUNS[0]]
    assert ask(place, "approve", "-c", "nightly.toml", "0")[0] == newest
    assert ask(place, "report", "")[0] == []
    assert ask(place, "report", "-c", "none.toml", "")[0] == []
    assert ask(place, "report", "-c", "notes.txt", "")[0] == []


@pytest.mark.parametrize(
    "words", [("run", "no"), ("state", "backup", "no"), ("apply", "no"), ("snapshot", "export", "no"), ("check", "no")]
)
def test_files_are_left_to_the_shell(place: Path, words: tuple[str, ...]) -> None:
    """Nothing is offered, so that bash's own default, files, is."""
    assert ask(place, *words)[0] == []
    assert "-o default" in completing.script("bash")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_is_one_of_its_shell(shell: str, cli: Cli, tmp_path: Path) -> None:
    """The shell itself reads it without complaint; it goes to standard output alone, and no file is written."""
    said = cli("completion", shell)
    assert said.code == 0
    assert said.out == completing.script(shell) + "\n"  # type: ignore[arg-type]
    assert "_CONSENT_SYNC_COMPLETE" in said.out
    script = tmp_path / "script"
    script.write_text(said.out)
    if there := shutil.which(shell):  # of those that are on this machine
        ended = subprocess.run([there, "-n", script], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr


def test_unknown_shell_is_refused(cli: Cli) -> None:
    """With those that are known."""
    said = cli("completion", "tcsh")
    assert said.code == 2
    assert "bash" in said.err


@pytest.mark.parametrize("words", [["report", "-c", "nightly.toml", ""], ["run", "-c", ""], ["d"]])
def test_completing_loads_nothing_slow(place: Path, words: list[str]) -> None:
    """Neither tables nor HTTP nor the ledger: whoever presses tab waits for it."""
    slow = ("pandas", "pyarrow", "aiohttp", "numpy", "matplotlib", "sqlite3", "structlog")
    code = (
        "import json, sys\n"
        "sys.argv = ['consent-sync']\n"
        "from sync_job.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print(json.dumps([name for name in {slow!r} if name in sys.modules]))\n"
    )
    asked = {
        "_CONSENT_SYNC_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["consent-sync", *words]),
        "COMP_CWORD": str(len(words)),
    }
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=os.environ | asked, capture_output=True, text=True, check=True
    )
    *offered, loaded = ended.stdout.splitlines()
    assert offered, ended.stderr
    assert json.loads(loaded) == []
