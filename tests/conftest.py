"""What all tests share: temporary files in memory, the command line within the process, and skips that are failures."""

import compileall
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli, called
from tests.scripted import Script

# Machines are shared and noisy: no example fails for having been slow.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Nearly all that tests write is made durable, a few bytes at a time: on a disk, some of them do little but wait for it.
# Nothing that they look at depends on it; whoever wants a disk all the same says TMPDIR.
_MEMORY = Path("/dev/shm")  # noqa: S108 - open to all as every folder for temporary files is
_ROOM_BYTES = 1 << 30
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES:
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None  # it is looked for again

# A page for people takes each run two seconds more; the tests that are about it ask for it.
os.environ["CONSENT_SYNC__REPORT__PAGE"] = "false"

# Where Python was told to keep no bytecode, each of the many processes that tests start would compile the product anew.
if sys.dont_write_bytecode and "PYTEST_XDIST_WORKER" not in os.environ:
    compileall.compile_dir(Path(__file__).parent.parent / "sync_job", quiet=2)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line within this process."""
    return partial(called, capsys)


@pytest.fixture
def script() -> Script:
    """Return what the stand-in answers: at first all is well."""
    return Script()


@pytest.fixture
def platform(script: Script) -> Iterator[Standin]:
    """Run a stand-in that answers at once, and by the script."""
    with running(Options(script=script)) as found:
        yield found


# Files whose tests wait more than they compute: first, and so by one worker, while another takes all the others.
_WAITING = {
    f"test_{name}.py"
    for name in (
        "backfill",
        "browser",
        "crash",
        "delivery",
        "docs",
        "histories",
        "mutations",
        "kill",
        "night",
        "opt_out",
        "review",
        "strace",
    )
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: at the end no worker waits for the last of them."""
    items.sort(key=lambda item: item.path.name not in _WAITING)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips into failures under CONSENT_SYNC_TEST_ALL=1."""
    report = yield
    if report.skipped and os.environ.get("CONSENT_SYNC_TEST_ALL") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CONSENT_SYNC_TEST_ALL=1 says that nothing is: {report.longrepr}"
    return report
