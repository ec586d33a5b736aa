"""Guards count what an export asks for, not what may be sent at that second, and a report is of all legs of its run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sync_job.errors import Exit
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.place import NO, YES, Place, allowed_since

HOUR = 3600.0
OWED = range(1, 31)  # three times as many as may be allowed again unasked
CROWD = dict.fromkeys(range(1, 301), YES)
NO_EMAIL = CROWD | dict.fromkeys(OWED, (True, False, True, True))


class Script:
    """Refuses the rows of some clients for as long as it is told to."""

    refusing = True

    def __call__(self, number: int, client: int) -> Fault | None:
        """Return what happens to a request."""
        return Fault.REFUSE if self.refusing and client in OWED else None


@pytest.fixture
def script() -> Script:
    """Return what the platform does to requests."""
    return Script()


@pytest.fixture
def platform(script: Script) -> Iterator[Standin]:
    """Run a stand-in that refuses what the script says."""
    with running(Options(script=script)) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path, platform: Standin, cli: Cli) -> Place:
    """Make a target in which thirty people allow no e-mail, withdrew SMS, and were refused that."""
    made = Place(tmp_path, platform.url, cli)
    made.init(NO_EMAIL, age_s=10 * HOUR)
    assert made.opt_out(*OWED, scope="sms").code == Exit.ATTENTION
    return made


def test_the_guard_counts_those_to_whom_a_denial_is_owed(place: Place, script: Script, platform: Standin) -> None:
    """They may be granted nothing now, and the thirty re-grants are held all the same, tonight and afterwards."""
    place.write(CROWD)
    summary = place.summary("run")
    assert summary["exit"] == Exit.HELD
    assert [one["count"] for one in summary["guards"] if one["guard"] == "re-grants"] == [30]
    script.refusing = False
    place.write(CROWD)
    start = len(platform.platform.log)
    assert place("run", "--retry-refused", "--quiet").code == Exit.HELD
    assert set(allowed_since(platform.platform, start)).isdisjoint(OWED)


def test_a_report_adds_up_over_all_legs(place: Place, script: Script) -> None:
    """What is owed, and what the export changes, is in the lanes and in the outcomes alike."""
    script.refusing = False
    place.write(NO_EMAIL | {200: NO, 201: NO, 900: YES})
    summary = place.summary("run", "--retry-refused")
    assert sum(summary["lanes"].values()) == summary["planned"] == sum(summary["outcomes"].values())
    assert summary["lanes"]["obligation"] == len(OWED)
