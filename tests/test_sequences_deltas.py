"""Deltas: what one says no later one says again, so that none is passed over without a word."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sync_job.errors import Exit
from sync_job.standin.background import Standin
from tests.commands import Cli
from tests.place import NO, YES, Place

HOUR = 3600.0
FIRST, SECOND = dict.fromkeys(range(1, 201), YES), dict.fromkeys(range(201, 401), YES)
CROWD = FIRST | SECOND


@pytest.fixture
def place(tmp_path: Path, platform: Standin, cli: Cli) -> Place:
    """Make a target that reads deltas, made from a full export of 20 hours ago."""
    made = Place(tmp_path, platform.url, cli)
    made.init(CROWD, age_s=20 * HOUR)
    made.shipped("nightly", called="full")
    made.config.write_text(made.config.read_text().replace('kind = "full"', 'kind = "delta"'))
    return made


def change(path: Path, **keys: str) -> None:
    """Set keys of [export] in a configuration."""
    lines = [line for line in path.read_text().splitlines() if line.partition(" = ")[0] not in keys]
    at = lines.index("[export]") + 1
    path.write_text("\n".join([*lines[:at], *(f"{key} = {value}" for key, value in keys.items()), *lines[at:]]))


def miss(place: Place, path: Path) -> None:
    """Ask for a delta while the target is paused."""
    assert place("pause", "--reason", "x", "--by", "y").code == Exit.OK
    assert place("run", path, "--quiet").code == Exit.BUSY
    assert place("resume").code == Exit.OK


def is_refused(place: Place, path: Path, named: str) -> bool:
    """Return whether a run of a delta ends in 3 and names one that was missed."""
    said = place("run", path)
    return said.code == Exit.EXPORT and named in said.err and "not applied" in said.err


@pytest.mark.parametrize("age_h", [10, 40])
def test_a_full_export_is_as_old_as_its_oldest_file(place: Place, age_h: int) -> None:
    """Its newest file says nothing of the people in the others, also if those are too old to grant."""
    missed = place.write({5: NO}, "1.csv", age_s=5 * HOUR)
    miss(place, missed)
    place.write(FIRST, "parts/a.csv", age_s=age_h * HOUR)
    place.write(SECOND, "parts/b.csv", age_s=HOUR)
    place("run", place.folder / "parts", "--quiet", config=place.folder / "full.toml")
    assert is_refused(place, place.write({6: NO}, "2.csv"), "1.csv")


def test_a_full_export_of_unknown_age_makes_no_delta_superfluous(place: Place) -> None:
    """It may be older than the delta."""
    for path in (place.config, place.folder / "full.toml"):
        change(path, as_of='"none"')
    miss(place, place.write({5: NO}, "1.csv"))
    place.write(CROWD)
    assert place("run", "--quiet", config=place.folder / "full.toml").code == Exit.OK
    assert is_refused(place, place.write({6: NO}, "2.csv"), "1.csv")


def test_a_doubted_full_export_makes_no_delta_superfluous(place: Place) -> None:
    """It has no column of SMS, and so does not say what the delta said of it: neither asked for nor left out."""
    change(place.config, pick='"newest"')
    place.write({5: NO}, "deltas/1.csv", age_s=3 * HOUR)
    full = place.write(CROWD, age_s=2 * HOUR)
    rows = [line.split(",") for line in full.read_text().splitlines()]
    full.write_text("".join(",".join([row[0], *row[2:]]) + "\n" for row in rows))
    os.utime(full, (time.time() - 2 * HOUR,) * 2)
    assert place("run", "--quiet", config=place.folder / "full.toml").code == Exit.HELD
    place.write({6: NO}, "deltas/2.csv")
    assert is_refused(place, place.folder / "deltas", "1.csv")


def test_a_delta_that_was_asked_for_by_a_clock_that_was_ahead(
    place: Place, platform: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place in the order is a number, and no time."""
    missed = place.write({5: NO}, "1.csv", age_s=HOUR)
    real = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: real() + 100 * 24 * HOUR)
        miss(place, missed)
    second = place.write({6: NO}, "2.csv")
    assert is_refused(place, second, "1.csv")
    assert place("run", missed, "--quiet").code == Exit.OK
    assert place("run", second, "--quiet").code == Exit.OK
    assert (platform.platform.state[5], platform.platform.state[6]) == (NO, NO)


def test_a_delta_from_the_future_is_missed_all_the_same(place: Place) -> None:
    """The CRM's clock was ahead: its file is refused, and the next one does not pass it over."""
    first = place.write({5: NO}, "1.csv", age_s=-50 * HOUR)
    assert place("run", first, "--quiet").code == Exit.EXPORT
    assert is_refused(place, place.write({6: NO}, "2.csv"), "1.csv")
    os.utime(first)
    assert place("run", first, "--quiet").code == Exit.OK


def test_what_pick_leaves_out_is_known_by_its_content(place: Place, platform: Standin) -> None:
    """With no age of exports at all: the one between two that were taken was never applied."""
    change(place.config, pick='"newest"', as_of='"none"')
    folder = place.folder / "deltas"
    place.write({5: NO}, "deltas/1.csv", age_s=3 * HOUR)
    assert place("run", folder, "--quiet").code == Exit.OK
    place.write({6: NO}, "deltas/2.csv", age_s=2 * HOUR)
    place.write({7: NO}, "deltas/3.csv", age_s=HOUR)
    assert is_refused(place, folder, "2.csv")
    assert place("run", folder / "2.csv", "--quiet").code == Exit.OK
    assert place("run", folder, "--quiet").code == Exit.OK
    assert [platform.platform.state[client] for client in (5, 6, 7)] == [NO] * 3


def test_a_second_file_of_a_day_that_was_applied_is_not_passed_over(place: Place, platform: Standin) -> None:
    """Two deltas have one date in their names; what is given up is asked about once."""
    change(place.config, pick='"newest"', as_of='"filename:%Y-%m-%d"')
    folder, today = place.folder / "deltas", datetime.now(UTC)
    before, day = (f"{today - timedelta(days=days):%Y-%m-%d}" for days in (2, 1))
    place.write({5: NO}, f"deltas/{before}_a.csv", age_s=12 * HOUR)
    place("run", folder, "--quiet")
    place.write({6: NO}, f"deltas/{before}_b.csv", age_s=10 * HOUR)
    place.write({7: NO}, f"deltas/{day}_a.csv", age_s=HOUR)
    assert is_refused(place, folder, f"{before}_b.csv")
    place("run", folder, "--quiet", "--skip-missed", 1)
    assert platform.platform.state[7] == NO
    place.write({8: NO}, f"deltas/{today:%Y-%m-%d}_a.csv", age_s=HOUR)
    place("run", folder, "--quiet")
    assert platform.platform.state[8] == NO


@pytest.mark.parametrize("how", ["marker", "header", "torn"])
def test_a_delta_that_was_not_whole_is_the_one_that_comes_to_its_place(
    place: Place, platform: Standin, how: str
) -> None:
    """Given again, it is no other delta; never given again, it was missed."""
    text = {"marker": "", "header": "Id,AllowSms\n5,false\n", "torn": 'Client,AllowSms\n5,"fal'}[how]
    first = place.write({5: NO}, "1.csv", age_s=2 * HOUR)
    if how == "marker":
        change(place.config, complete='"marker:{name}.ok"')
    else:
        first.write_text(text)
        os.utime(first, (time.time() - 2 * HOUR,) * 2)
    assert place("run", first, "--quiet").code == Exit.EXPORT
    second = place.write({7: NO}, "2.csv", age_s=HOUR / 2)
    for path in (first, second):
        path.with_name(f"{path.name}.ok").write_text("")
    if how != "marker":
        assert is_refused(place, second, "1.csv")
    place.write({5: NO, 6: NO}, "1.csv", age_s=HOUR)
    assert place("run", first, "--quiet").code == Exit.OK
    assert place("run", second, "--quiet").code == Exit.OK
    assert [platform.platform.state[client] for client in (5, 6, 7)] == [NO] * 3


def test_a_delta_of_several_files_is_named_by_its_folder(place: Place, platform: Standin) -> None:
    """Its files may as well be given one by one."""
    place.write({5: NO}, "first/a.csv", age_s=2 * HOUR)
    place.write({6: NO}, "first/b.csv", age_s=2 * HOUR)
    miss(place, place.folder / "first")
    second = place.write({7: NO}, "2.csv")
    assert is_refused(place, second, f"{place.folder / 'first'} of")
    for name in "ab":
        assert place("run", place.folder / "first" / f"{name}.csv", "--quiet").code == Exit.OK
    assert place("run", second, "--quiet").code == Exit.OK
    assert [platform.platform.state[client] for client in (5, 6, 7)] == [NO] * 3


def test_a_folder_of_deltas_that_grows_has_those_that_were_missed(place: Place, platform: Standin) -> None:
    """It is not refused for want of what it contains."""
    folder = place.folder / "deltas"
    for client, name in ((5, "a"), (6, "b"), (7, "c")):
        place.write({client: NO}, f"deltas/{name}.csv", age_s=HOUR)
        if name != "c":
            miss(place, folder)
    assert place("run", folder, "--quiet").code == Exit.OK
    assert [platform.platform.state[client] for client in (5, 6, 7)] == [NO] * 3
    assert place.summary("status")["deltas"]["missed"] == []


def test_a_delta_from_a_pipe_is_not_passed_over(place: Place) -> None:
    """It is known by its content, and has to be given up if it is not there any more."""
    for path in (place.config, place.folder / "full.toml"):
        change(path, as_of='"none"')
    assert place("pause", "--reason", "x", "--by", "y").code == Exit.OK
    piped = place.write({5: NO}, "piped.csv").read_text()
    command = [sys.executable, "-m", "sync_job", "run", "-", "--config", str(place.config)]
    assert subprocess.run(command, input=piped, text=True, capture_output=True, check=False).returncode == Exit.BUSY
    assert place("resume").code == Exit.OK
    second = place.write({6: NO}, "2.csv")
    assert is_refused(place, second, "standard input")
    assert place("run", second, "--quiet", "--skip-missed", 1).code == Exit.OK


def test_people_are_not_carried_while_a_delta_was_missed(place: Place, tmp_path: Path) -> None:
    """Its ids are the old ones, and nobody could apply it to the new state."""
    miss(place, place.write({5: NO}, "1.csv"))
    new = tmp_path / "new.toml"
    new.write_text(place.config.read_text().replace(f"{place.folder}/state", f"{place.folder}/other"))
    path = place.folder / "map.csv"
    path.write_text("old_id,new_id\n" + "".join(f"{client},{client + 5000}\n" for client in CROWD))
    said = place("init", "--from", place.folder / "state", "--id-map", path, "--expect", len(CROWD), config=new)
    assert (said.code, "1.csv" in said.err) == (Exit.STATE, True)


def test_a_missed_delta_shows_before_the_next_one(place: Place) -> None:
    """In `status` and `doctor`; and `plan` ends as `run` would."""
    miss(place, place.write({5: NO}, "1.csv"))
    assert "1.csv" in place("status").out
    assert "1.csv" in place("doctor", "--offline").out.replace("\n", "").replace(" ", "")
    said = place("plan", place.write({6: NO}, "2.csv"))
    assert (said.code, "1.csv" in said.err) == (Exit.EXPORT, True)


def granted(platform: Standin) -> int:
    """Return how many of the new clients are allowed everything."""
    return sum(platform.platform.state.get(client) == YES for client in range(1001, 1011))


def test_a_delta_that_was_cut_short_is_given_again(place: Place, platform: Standin) -> None:
    """Its report, `status` and `doctor` say so; given again it sends the rest."""
    first = place.write(dict.fromkeys(range(1001, 1011), YES) | {5: NO}, "1.csv", age_s=HOUR)
    assert place("run", first, "--quiet", "--limit", 4).code == Exit.ATTENTION
    assert "give it again before" in " ".join(place("report").out.split())
    assert "1.csv was not sent whole" in place("status").out
    assert place("run", first, "--quiet").code == Exit.OK
    assert granted(platform) == 10
    assert "not sent whole" not in place("status").out
    assert place("run", place.write({6: NO}, "2.csv"), "--quiet").code == Exit.OK


@pytest.mark.parametrize("again", [True, False])
def test_a_delta_whose_run_was_killed_loses_no_grant_in_silence(place: Place, platform: Standin, again: bool) -> None:
    """Given again it sends the rest; the next one in its place ends in 1 and says whose grants are lost."""
    text = place.config.read_text()
    place.config.write_text(f"{text}\n[delivery]\nmax_rps = 5\n")
    first = place.write(dict.fromkeys(range(1001, 1011), YES) | {5: NO}, "1.csv", age_s=HOUR)
    command = [sys.executable, "-m", "sync_job", "run", str(first), "--quiet", "--config", str(place.config)]
    running = subprocess.Popen(command)
    while len(platform.platform.log) < 3 and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    place.config.write_text(text)
    assert place("drain", "--quiet").code == Exit.OK
    second = place.write({6: NO}, "2.csv")
    if again:
        assert place("run", first, "--quiet").code == Exit.OK
        assert granted(platform) == 10
        assert place("run", second, "--quiet").code == Exit.OK
    else:
        said = place("run", second)
        assert said.code == Exit.ATTENTION
        assert "1.csv was not sent whole" in said.out + said.err
    assert (platform.platform.state[5], platform.platform.state[6]) == (NO, NO)
