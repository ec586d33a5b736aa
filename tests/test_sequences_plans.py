"""A saved plan that is applied is an export that was read: it changes all that a run of the same export changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sync_job.errors import Exit
from sync_job.standin.background import Standin
from sync_job.standin.faults import Fault
from tests.commands import Cli, Said
from tests.place import NO, YES, Place
from tests.scripted import Script

HOUR = 3600.0
ONE, OTHER = 5, 6
CROWD = dict.fromkeys(range(1, 1001), YES)
LEFT = range(1, 151)  # more than the guard on revocations lets through
BACK = range(2001, 2021)  # more than the guard on re-grants lets through

Read = Callable[..., Said]


@pytest.fixture
def place(tmp_path: Path, platform: Standin, cli: Cli) -> Place:
    """Make a target that reads full exports, from one of ten hours ago in which some are denied everything."""
    made = Place(tmp_path, platform.url, cli)
    made.init(CROWD | dict.fromkeys(BACK, NO), age_s=10 * HOUR)
    assert made("run", "--quiet").code == Exit.OK
    return made


@pytest.fixture(params=["run", "apply"])
def read(request: pytest.FixtureRequest, place: Place) -> Read:
    """Return what has an export read, by a run or by a plan and its application."""

    def by_run(*arguments: object) -> Said:
        return place("run", *arguments, "--quiet")

    def by_plan(*arguments: object) -> Said:
        plan = place.folder / "saved.plan"
        planned = place("plan", *arguments, "-o", plan, "--quiet")
        assert planned.code in (Exit.OK, Exit.HELD, Exit.OBLIGATION), planned.err
        return place("apply", plan, "--quiet")

    return by_run if request.param == "run" else by_plan


def deltas(place: Place) -> None:
    """Let exports be deltas from now on."""
    place.config.write_text(place.config.read_text().replace('kind = "full"', 'kind = "delta"'))


def open_(place: Place) -> int:
    """Return how many clients are owed a denial."""
    return int(place.summary("withdrawals", "status")["open"])


def approve(place: Place, run: object, what: str, count: int) -> int:
    """Approve a number of what a run held; return the exit code."""
    return place("approve", run, f"--{what}", count, "--reason", "they said so", "--by", "CRM lead").code


@pytest.mark.parametrize("how", ["a delta", "a part"])
def test_a_no_that_is_said_again_is_newer_than_a_yes_from_between(
    place: Place, platform: Standin, read: Read, how: str
) -> None:
    """Though nothing has to be sent of it."""
    deltas(place)
    path = place.write({ONE: NO}, "1.csv", age_s=8 * HOUR)
    assert place("run", path, "--quiet").code == Exit.OK
    again = place.write({ONE: NO}, "2.csv", age_s=HOUR)
    assert read(*(["--part"] if how == "a part" else []), again).code == Exit.OK
    between = place.write({ONE: YES}, "part.csv", age_s=4 * HOUR)
    assert place("run", "--part", between, "--quiet").code == Exit.HELD
    assert platform.platform.state[ONE] == NO


def test_a_no_that_is_owed_and_said_again_does_not_end_by_a_yes_from_between(
    place: Place, script: Script, read: Read
) -> None:
    """It is owed as of its last statement."""
    deltas(place)
    script.faults[ONE] = Fault.REFUSE
    assert place("run", place.write({ONE: NO}, "1.csv", age_s=8 * HOUR), "--quiet").code == Exit.ATTENTION
    read(place.write({ONE: NO}, "2.csv", age_s=HOUR))
    place("run", "--part", place.write({ONE: YES}, "part.csv", age_s=4 * HOUR), "--quiet")
    assert open_(place) == 1


def test_a_no_of_a_delta_is_owed_beside_that_of_a_list(place: Place, script: Script, read: Read) -> None:
    """The list may be void later."""
    deltas(place)
    script.faults = dict.fromkeys((ONE, OTHER), Fault.REFUSE)
    taken = json.loads(place.opt_out(ONE, more=("--json",)).out)
    read(place.write({ONE: NO, OTHER: NO}, "1.csv", age_s=HOUR))
    said = ("--reason", "another brand's", "--by", "A", "--approved-by", "B")
    assert place("withdrawals", "void", "--list", taken["list"], *said).code == Exit.OK
    assert open_(place) == 2


def test_an_approval_ends_where_the_next_export_denies(place: Place, platform: Standin, read: Read) -> None:
    """Whoever is allowed again after that is a new case."""
    allowed = CROWD | dict.fromkeys(BACK, YES)
    place.write(allowed, age_s=8 * HOUR)
    assert place("run", "--quiet").code == Exit.HELD
    assert approve(place, place.summary("approve")["held"][0]["run"], "grants", len(BACK)) == Exit.OK
    place.write(CROWD | dict.fromkeys(BACK, NO), age_s=6 * HOUR)
    assert read().code == Exit.OK
    place.write(allowed, age_s=4 * HOUR)
    assert place("run", "--quiet").code == Exit.HELD
    assert not any(platform.platform.state.get(client) == YES for client in BACK)


def test_what_was_held_cannot_be_approved_after_the_next_export(place: Place, read: Read) -> None:
    """It is another export by now that says what is asked for."""
    place.write(CROWD | dict.fromkeys(BACK, YES), age_s=8 * HOUR)
    assert place("run", "--quiet").code == Exit.HELD
    run = place.summary("approve")["held"][0]["run"]
    place.write(CROWD | dict.fromkeys(BACK, NO), age_s=6 * HOUR)
    assert read().code == Exit.OK
    assert approve(place, run, "grants", len(BACK)) == Exit.CONFIG


def test_a_newer_yes_ends_what_a_guard_holds(place: Place, platform: Standin, read: Read) -> None:
    """Also where nothing has to be sent of it, so that the plan has no row."""
    everybody = CROWD | dict.fromkeys(BACK, NO)
    place.write(everybody | dict.fromkeys(LEFT, NO), age_s=8 * HOUR)
    assert place("run", "--quiet").code == Exit.HELD
    run = place.summary("approve")["held"][0]["run"]
    place.write(everybody, age_s=6 * HOUR)
    assert read().code == Exit.OK
    assert open_(place) == 0
    assert approve(place, run, "revocations", len(LEFT)) == Exit.CONFIG
    assert place("drain", "--quiet").code == Exit.OK
    assert not any(platform.platform.state.get(client) == NO for client in LEFT)


def test_who_is_erased_after_the_plan_is_in_nothing_of_it(place: Place, platform: Standin) -> None:
    """Neither in what is sent, nor in what its statements change."""
    deltas(place)
    plan = place.folder / "saved.plan"
    assert place("plan", place.write({ONE: NO, OTHER: NO}, "1.csv", age_s=HOUR), "-o", plan, "--quiet").code == Exit.OK
    gone = place.folder / "gone.csv"
    gone.write_text(f"Client\n{OTHER}\n")
    assert place("forget", gone, "--reason", "asked", "--by", "desk").code == Exit.OK
    place("apply", plan, "--quiet")
    assert place("state", "check").code == Exit.OK
    assert place.rows(f"SELECT client FROM obligations WHERE client = {OTHER}") == []  # noqa: S608 - a number


def test_a_run_that_read_nothing_leaves_a_plan_as_it_was(place: Place, platform: Standin) -> None:
    """It can be applied after a night that found no export."""
    plan = place.folder / "saved.plan"
    everybody = CROWD | dict.fromkeys(BACK, NO)
    assert place("plan", place.write(everybody | {ONE: NO}, "1.csv", age_s=HOUR), "-o", plan, "--quiet").code == Exit.OK
    assert place("run", place.folder / "none.csv", "--quiet").code == Exit.EXPORT
    assert place("apply", plan, "--quiet").code == Exit.OK
    assert platform.platform.state[ONE] == NO
