"""A run that is killed within a system call is made good by the next one."""

import tempfile
from pathlib import Path

from sync_job.standin.background import running
from sync_job.standin.options import Options
from tests import strace
from tests.dying import commands
from tests.test_crash import LATENCY_S

# Some calls of each family; `make crash` goes through all of them.
SOME = (("fsync", 3), ("rename", 4), ("write", 40), ("journal", 5))


def test_a_run_that_is_killed_in_a_system_call_is_made_good(tmp_path: Path) -> None:
    """What SQLite or Parquet had half written is no loss."""
    strace.command()
    memory = Path("/dev/shm")  # noqa: S108
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as made,
        running(Options(latency_ms=1000 * LATENCY_S)) as platform,
        commands() as process,
    ):
        killing = strace.Killing(Path(made), platform, process)
        for family, number in SOME:
            assert killing.kill(family, number), f"{family}: it made fewer calls"
