"""Kills runs at their system calls, in turn, as `strace` injects it: within SQLite's and Parquet's writes as well.

`make crash` tries them all, some steps apart. strace counts the calls of each thread for itself, so the Nth call is
that of the first thread that makes so many; the journal's own thread is met by its files' names.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sync_job.standin.background import Standin, running
from sync_job.standin.contract import Flags, Update
from sync_job.standin.options import Options
from tests.dying import Commands, commands
from tests.shop import Shop, holds
from tests.test_crash import AFTER_RUN, CONCURRENCY, FIRST, LATENCY_S, LATER_S, LINGER_S, SECOND, STRANGERS, Shopping
from tests.test_crash import _first as prepared

# Families of calls, whether only those to the journal, and how far the moments are apart in the full run.
FAMILIES = {
    "fsync": (("fsync", "fdatasync"), False, 2),
    "rename": (("rename", "renameat", "renameat2"), False, 1),
    "write": (("write", "pwrite64"), False, 15),
    "journal": (("fsync", "fdatasync", "write", "pwrite64"), True, 3),
}
_SECONDS_AHEAD = 30  # a run's folder has the second in its name: so many are watched


def command() -> str:
    """Return the path of strace; without it the test is skipped."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("the strace command is missing, which ends a process at a chosen system call")
    return found


class Killing:
    """A shop that is put back before each kill."""

    def __init__(self, folder: Path, platform: Standin, process: Commands) -> None:
        (folder / "shop").mkdir()
        shop = Shop(folder / "shop", platform.url, concurrency=CONCURRENCY, linger_s=LINGER_S)
        self.here = Shopping(shop, platform, process)
        self._kept = folder / "kept"
        for client, flags in (STRANGERS | FIRST).items():
            platform.platform.apply(Update(client, Flags(*flags)))
        prepared(self.here)
        shutil.copytree(shop.folder, self._kept)
        self._held = platform.platform.state

    def kill(self, family: str, number: int) -> bool:
        """Kill a run at the *number*th call of a family, run again, and hold the oracle; return whether it met one."""
        shop, platform = self.here.shop, self.here.platform.platform
        for client, flags in self._held.items():
            platform.apply(Update(client, flags))
        shutil.rmtree(shop.folder)
        shutil.copytree(self._kept, shop.folder)
        place = platform.entries
        killed = self._traced(family, number)
        for later_s in (0.0, LATER_S) if killed else (LATER_S,):
            ended = self.here.run("run", later_s=later_s)
            assert ended.code in (0, 1), ended.said
        held = holds(platform)
        wrong = {client: held.get(client) for client, flags in AFTER_RUN.items() if held.get(client) != flags}
        assert not wrong, f"{family} {number}: {wrong}"
        for entry in platform.log[place:]:
            for flag, said in zip(entry.flags, SECOND[entry.client], strict=True):
                assert not flag or said, f"{family} {number}: {entry}"
        return killed

    def _traced(self, family: str, number: int) -> bool:
        calls, only_journal, _ = FAMILIES[family]
        folder = self.here.shop.folder
        paths = []
        for second in range(_SECONDS_AHEAD if only_journal else 0):
            name = (datetime.now(UTC) + timedelta(seconds=second)).strftime("%Y%m%dT%H%M%SZ")
            number_of_run = len(list((folder / "reports").iterdir())) + 1
            journal = folder / "state" / "runs" / f"{number_of_run:04d}-{name}" / "1" / "journal.db"
            paths += [f"-P{journal}{ending}" for ending in ("", "-wal")]
        names = ",".join(calls)
        ended = subprocess.run(
            [
                *(command(), "-f", "-qq", "-o", os.devnull, "-e", f"trace={names}", *paths),
                *("-e", f"inject={names}:signal=SIGKILL:when={number}"),
                *(sys.executable, "-m", "sync_job", "run", "--quiet", "--config", str(self.here.shop.config)),
            ],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=120,
            check=False,
        )
        killed = ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert killed or ended.returncode in (0, 1), ended.stderr.decode(errors="replace")
        return killed


def moments(killing: Killing, family: str, step: int) -> Iterator[int]:
    """Kill at every so manieth call of a family, until a run makes no more; yield the numbers."""
    number = 1
    while killing.kill(family, number):
        yield number
        number += step


def main() -> None:
    """Kill runs at the calls of every family; print how many moments there were."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--step", type=int, default=1, help="so many times fewer moments")
    wish = parser.parse_args()
    if shutil.which("strace") is None:
        sys.stdout.write("skipped: the strace command is missing, which ends a process at a chosen system call\n")
        return
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="strace-") as made,
        running(Options(latency_ms=1000 * LATENCY_S)) as platform,
        commands() as process,
    ):
        killing = Killing(Path(made), platform, process)
        for family, (_, _, step) in FAMILIES.items():
            found = list(moments(killing, family, wish.step * step))
            sys.stdout.write(f"{family}: {len(found)} kills, {time.monotonic() - started:.0f} s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
