"""An *allowed* is sent only if what states it is newer than the newest denial of the person, through whichever door."""

import gzip
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sync_job import load_settings
from sync_job.consent.dates import Dates
from sync_job.errors import Exit
from sync_job.ledger.state import State
from sync_job.standin.background import Standin
from tests.commands import Cli
from tests.place import NO, NONE, YES, Place, allowed_since

HOUR = 3600.0
CROWD = dict.fromkeys(range(1, 301), YES)
GONE = range(1, 9)  # who says no meanwhile: fewer than any guard holds
DENIED = CROWD | dict.fromkeys(GONE, NO)


@pytest.fixture
def place(tmp_path: Path, platform: Standin, cli: Cli) -> Place:
    """Make a target whose platform holds what the CRM exported 30 hours ago."""
    made = Place(tmp_path, platform.url, cli)
    made.init(CROWD, age_s=30 * HOUR)
    return made


def stay_denied(platform: Standin, start: int) -> None:
    """Hold that nobody who said no was sent an *allowed* since, and that all of them are denied."""
    assert set(allowed_since(platform.platform, start)).isdisjoint(GONE)
    assert all(platform.platform.state[client] == NO for client in GONE)


def sent(platform: Standin) -> int:
    """Return how many requests there were."""
    return len(platform.platform.log)


def test_a_file_that_was_doubted_dates_its_denials(place: Place, platform: Standin) -> None:
    """A night lacks a column and denies all the same: the file from before it grants nothing."""
    place.write(CROWD, age_s=30 * HOUR)
    assert place("run", "--quiet").code == Exit.OK
    path = place.write(DENIED, "b.csv", age_s=2 * HOUR)
    lines = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    assert place("run", path, "--quiet").code == Exit.HELD
    denied = [flags[:3] for client, flags in platform.platform.state.items() if client in GONE]
    assert denied == [NO[:3]] * len(GONE)
    start = sent(platform)
    place.write(CROWD, age_s=30 * HOUR)
    assert place("run", "--quiet").code == Exit.HELD
    assert allowed_since(platform.platform, start) == []


def test_a_desk_that_sends_a_list_in_the_shape_of_an_export(place: Place, platform: Standin) -> None:
    """The nightly file that was made before it does not undo it, though it was the last of its kind."""
    desk = place.shipped("opt-out")
    place.write(CROWD, age_s=HOUR)
    assert place("run", "--quiet").code == Exit.OK
    path = place.write(dict.fromkeys(GONE, NO), "list.csv")
    assert place("run", path, "--quiet", config=desk).code == Exit.OK
    start = sent(platform)
    said = place("run")
    assert said.code == Exit.HELD
    assert "8 clients denied something no earlier than this export was made" in said.out
    stay_denied(platform, start)
    held = next((place.folder / "reports").glob("*/held.csv")).read_text()
    assert held.count("not newer than the denial of") == 4 * len(GONE)
    assert "--grants" not in said.out, "what is older than a denial cannot be approved"
    report = place("report").out
    assert "8 clients have something held" in report
    assert "a newer export that allows it is sent" in report
    assert "wait for approval" not in report


def _in_other_words(path: Path) -> Path:
    """Write the same statements in another order, in other words, packed."""
    head, *rows = path.read_text().splitlines()
    random.Random(3).shuffle(rows)
    found = path.with_suffix(".csv.gz")
    found.write_bytes(gzip.compress("\n".join([head, *rows, rows[0]]).replace("true", "1").encode() + b"\n"))
    return found


@pytest.mark.parametrize("again", [lambda path: path, _in_other_words], ids=["same bytes", "other bytes"])
@pytest.mark.parametrize("how", ["full", "delta", "part", "list", "rejects"])
def test_an_export_without_a_date_is_as_old_as_when_it_was_last_current(
    tmp_path: Path, platform: Standin, cli: Cli, again: Callable[[Path], Path], how: str
) -> None:
    """With `as_of = "none"`, what was read before another export is older than that one, by its statements."""
    place = Place(tmp_path, platform.url, cli, as_of='"none"')
    delta = place.folder / "delta.toml"
    delta.write_text(place.config.read_text().replace('kind = "full"', 'kind = "delta"'))
    place.init(CROWD)
    first = place.write(CROWD, "a.csv")
    assert place("run", first, "--quiet").code == Exit.OK
    if how == "delta":
        second = place.write(dict.fromkeys(GONE, NO), "b.csv")
        assert place("run", second, "--quiet", config=delta).code == Exit.OK
    elif how == "part":
        second = place.write(dict.fromkeys(GONE, NO), "b.csv")
        assert place("run", "--part", second, "--quiet").code == Exit.OK
    elif how == "list":
        second = place.write(dict.fromkeys(GONE, NO), "b.csv")
        assert place("run", second, "--quiet", config=place.shipped("opt-out")).code == Exit.OK
    else:
        second = place.write(DENIED, "b.csv")
        if how == "rejects":
            second.write_text(second.read_text() + "".join(f"{client},perhaps,,,\n" for client in range(900, 960)))
        place("run", second, "--quiet")
    start = sent(platform)
    for _ in range(3):  # to give the command again makes nothing newer
        assert place("run", again(first), "--quiet").code == Exit.HELD
        stay_denied(platform, start)
    part = place.write(dict.fromkeys(GONE, YES), "part.csv")
    assert place("run", "--part", part, "--quiet").code == Exit.HELD, "a part is as old as the export that it is of"
    stay_denied(platform, start)
    assert place("run", place.write(CROWD | {900: YES}, "c.csv"), "--quiet").code == Exit.OK
    assert platform.platform.state[1] == YES, "other statements are made now"


def test_the_same_export_without_a_date_every_night_is_made_every_night(
    tmp_path: Path, platform: Standin, cli: Cli
) -> None:
    """With nothing else read in between, it outdoes a list that was taken in since, and void."""
    place = Place(tmp_path, platform.url, cli, as_of='"none"')
    place.init(CROWD)
    assert place("run", "--quiet").code == Exit.OK
    assert place.opt_out(1).code == Exit.OK
    digest = place.rows("SELECT digest FROM lists")[0][0]
    void = ("--list", digest[:12], "--reason", "wrong list", "--by", "A", "--approved-by", "B")
    assert place("withdrawals", "void", *void).code == Exit.OK
    for _ in range(2):
        assert place("run", "--quiet").code == Exit.OK
    assert platform.platform.state[1] == YES


def test_a_delta_without_a_date_is_older_than_a_full_export_since(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """What the full export denied once more, the delta from before it does not allow."""
    place = Place(tmp_path, platform.url, cli, "[guards]\nre_grants = 0\nre_grants_share = 0", as_of='"none"')
    delta = place.folder / "delta.toml"
    delta.write_text(place.config.read_text().replace('kind = "full"', 'kind = "delta"'))
    place.init(DENIED)
    assert place("run", "--quiet").code == Exit.OK
    again = place.write({1: YES}, "d.csv")
    assert place("run", again, "--quiet", config=delta).code == Exit.HELD
    place.write(DENIED | {900: YES})
    assert place("run", "--quiet").code == Exit.OK
    delta.write_text(delta.read_text().replace("re_grants = 0", "re_grants = 9"))
    start = sent(platform)
    assert place("run", again, "--quiet", config=delta).code == Exit.HELD
    assert allowed_since(platform.platform, start) == []


def test_a_part_without_a_date_among_deltas_grants_nobody_who_was_denied(
    tmp_path: Path, platform: Standin, cli: Cli
) -> None:
    """There is no full export of which it could be a piece; the next delta may."""
    place = Place(tmp_path, platform.url, cli, as_of='"none"', kind='"delta"')
    place.init(CROWD)
    assert place("run", "--quiet").code == Exit.OK
    part = place.write({1: YES, 5000: YES}, "part.csv")
    assert place("run", place.write({1: NO}, "d.csv"), "--quiet").code == Exit.OK
    assert place("run", "--part", part, "--quiet").code == Exit.HELD
    assert platform.platform.state[1] == NO
    assert platform.platform.state[5000] == YES, "nobody ever denied it"
    assert place("run", place.write({1: YES}, "e.csv"), "--quiet").code == Exit.OK
    assert platform.platform.state[1] == YES


def test_a_part_has_an_age(place: Place, platform: Standin) -> None:
    """A part of forty days ago grants nothing; one of now does."""
    place.write(DENIED, age_s=2 * HOUR)
    assert place("run", "--quiet").code == Exit.OK
    start = sent(platform)
    part = place.write(dict.fromkeys(GONE, YES), "part.csv", age_s=40 * 24 * HOUR)
    assert place("run", "--part", part, "--quiet").code == Exit.HELD
    assert "approval" not in place("report").out
    stay_denied(platform, start)
    place.write(dict.fromkeys(GONE, YES), "part.csv")
    assert place("run", "--part", part, "--quiet").code == Exit.OK
    assert all(platform.platform.state[client] == YES for client in GONE)


def test_of_several_files_each_has_its_own_age(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """Who is only in a file of twenty days ago is granted nothing; who is in the fresh one is."""
    place = Place(tmp_path, platform.url, cli, as_of='"column:made"')
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - HOUR))
    then = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 20 * 24 * HOUR))
    night = place.write(DENIED, "night.csv", made=now)
    assert place("init", night, "--platform", "equal", "--no-withdrawals").code == Exit.OK
    fresh = {client: YES for client in CROWD if client not in GONE} | {900: YES}
    place.write(fresh, "tonight/1.csv", made=now)
    place.write(dict.fromkeys(GONE, YES), "tonight/2.csv", made=then)
    start = sent(platform)
    said = place("run", place.folder / "tonight")
    assert said.code == Exit.HELD
    assert "2.csv is 480" in said.out
    assert allowed_since(platform.platform, start) == [900]


def test_a_yes_is_as_new_as_its_own_file(place: Place, platform: Standin) -> None:
    """Of several files one is from before a no, and one from after it: only the second allows; both are too old."""
    delta = place.folder / "delta.toml"
    delta.write_text(place.config.read_text().replace('kind = "full"', 'kind = "delta"'))
    said_no = place.write(dict.fromkeys(GONE, NO), "delta.csv", age_s=5 * HOUR)
    assert place("run", said_no, "--quiet", config=delta).code == Exit.OK
    start = sent(platform)
    before = {client: YES for client in CROWD if client % 2}
    place.write(before | {2: YES}, "night/a.csv", age_s=10 * HOUR)
    place.write({client: YES for client in CROWD if client not in before}, "night/b.csv", age_s=HOUR)
    said = place("run", place.folder / "night")
    assert said.code == Exit.HELD
    assert "5 clients denied something no earlier" in said.out, "1, 3, 5, 7, and 2, who is in both files"
    assert sorted(allowed_since(platform.platform, start)) == [4, 6, 8]
    assert "not newer" in place("explain", 2, place.folder / "night").out
    assert place("run", place.folder / "night", "--quiet").code == Exit.HELD
    place.write(before, "night/a.csv")
    assert place("run", place.folder / "night", "--quiet").code == Exit.OK
    assert platform.platform.state[1] == YES


def test_ids_that_are_far_apart_are_as_old_as_the_oldest_file(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """There is no table of their ages, so in doubt nothing is granted; the next night allows it."""
    place = Place(tmp_path, platform.url, cli)
    far = {client * 7_000_000: YES for client in CROWD}
    place.init(far, age_s=30 * HOUR)
    delta = place.folder / "delta.toml"
    delta.write_text(place.config.read_text().replace('kind = "full"', 'kind = "delta"'))
    said_no = place.write({7_000_000: NO}, "delta.csv", age_s=5 * HOUR)
    assert place("run", said_no, "--quiet", config=delta).code == Exit.OK
    place.write({client: YES for client in far if client > 7_000_000}, "night/a.csv", age_s=10 * HOUR)
    place.write({7_000_000: YES}, "night/b.csv", age_s=HOUR)
    assert place("run", place.folder / "night", "--quiet").code == Exit.HELD
    assert platform.platform.state[7_000_000] == NO
    place.write(far, age_s=0)
    assert place("run", "--quiet").code == Exit.OK
    assert platform.platform.state[7_000_000] == YES


def test_each_partition_has_its_own_age(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """A folder keeps old days: a new one that does not name a person makes nothing of an old one newer."""
    place = Place(tmp_path, platform.url, cli, as_of='"column:dt"', timezone='"UTC"')
    delta = place.folder / "delta.toml"
    delta.write_text(place.config.read_text().replace('kind = "full"', 'kind = "delta"').replace("column:dt", "mtime"))

    def day(age_s: float) -> str:
        return "dt=" + time.strftime("%Y-%m-%dT%H%M", time.gmtime(time.time() - age_s))

    for age in range(2, 12):
        place.write({client: YES for client in CROWD if client % 10 == age - 2}, f"t/{day(24 * HOUR * age)}/p.csv")
    place.write({10: YES, 400: YES}, f"t/{day(20 * HOUR)}/p.csv")
    assert place("init", place.folder / "t", "--platform", "equal", "--no-withdrawals").code == Exit.OK
    said_no = place.write(dict.fromkeys((*GONE, 400), NO), "delta.csv", age_s=12 * HOUR)
    assert place("run", said_no, "--quiet", config=delta).code == Exit.OK
    start = sent(platform)
    place.write({500: YES}, f"t/{day(HOUR)}/p.csv")
    said = place("run", place.folder / "t")
    assert said.code == Exit.HELD
    assert said.out.count("its clients are granted nothing") == 5
    assert "5 more files are too old" in said.out
    assert allowed_since(platform.platform, start) == [500]
    assert platform.platform.state[400] == NO, "its partition is fresh, and older than the no"


@pytest.mark.parametrize("as_of", ['"mtime"', '"column:made"'])
def test_a_file_without_a_row_of_this_brand_has_no_age(tmp_path: Path, platform: Standin, cli: Cli, as_of: str) -> None:
    """Files of other brands in one folder, old or not, and empty ones make nothing undated or too old."""
    place = Place(tmp_path, platform.url, cli, as_of=as_of, kind='"full"\nwhere = { Operator = 3 }')
    stamp = {age: time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - age * HOUR)) for age in (1, 50)}
    place.write(CROWD, "night/ours.csv", Operator="3", made=stamp[1])
    assert place("init", place.folder / "night", "--platform", "equal", "--no-withdrawals").code == Exit.OK
    place.write(CROWD | {900: YES}, "night/ours.csv", Operator="3", made=stamp[1])
    place.write(CROWD, "night/theirs.csv", age_s=50 * HOUR, Operator="4", made=stamp[50])
    place.write({}, "night/nobody.csv", age_s=50 * HOUR, Operator="3", made=stamp[50])
    said = place("run", place.folder / "night")
    assert said.code == Exit.OK, said.out
    assert platform.platform.state[900] == YES
    place.write({901: YES}, "night/old.csv", age_s=50 * HOUR, Operator="3", made=stamp[50])
    said = place("run", place.folder / "night")
    assert said.code == Exit.HELD
    assert "old.csv is 50.0 h old" in said.out
    assert said.out.count("its clients are granted nothing") == 1


def test_other_content_of_the_same_moment_overturns_nothing(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """Two files of one day's name: what one denies the other does not allow, and tomorrow's does."""
    place = Place(tmp_path, platform.url, cli, as_of='"filename:%Y-%m-%d"')
    today = time.strftime("%Y-%m-%d")
    first = place.write(CROWD, f"{today}.csv")
    assert place("init", first, "--platform", "equal", "--no-withdrawals").code == Exit.OK
    assert place("run", place.write(DENIED, f"{today}-b.csv"), "--quiet").code == Exit.OK
    start = sent(platform)
    changed = CROWD | {1: (True, None, None, None)}
    assert place("run", place.write(changed, f"{today}-c.csv"), "--quiet").code == Exit.HELD
    assert place("run", place.write(CROWD, f"{today}.csv"), "--quiet").code == Exit.HELD
    assert allowed_since(platform.platform, start) == []


def test_an_approval_makes_nothing_newer(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """Re-grants that a guard held and a person approved are not sent to who said no after that export was made."""
    place = Place(tmp_path, platform.url, cli, "[guards]\nre_grants = 2\nre_grants_share = 0")
    place.init(DENIED, age_s=30 * HOUR)
    place.write(CROWD, age_s=2 * HOUR)
    assert place("run", "--quiet").code == Exit.HELD
    number = place.rows("SELECT run FROM holds")[0][0]
    said = place("approve", number, "--grants", len(GONE), "--reason", "campaign", "--by", "CRM")
    assert said.code == Exit.OK, said.err
    part = place.write(dict.fromkeys(range(1, 5), NO), "part.csv", age_s=HOUR)
    assert place("run", "--part", part, "--quiet").code == Exit.OK
    start = sent(platform)
    place.write(CROWD, age_s=2 * HOUR)
    assert place("run", "--quiet").code == Exit.HELD
    assert sorted(allowed_since(platform.platform, start)) == [5, 6, 7, 8]


def test_a_plan_grants_nothing_to_who_said_no_since(place: Place, platform: Standin) -> None:
    """Neither when a delta denies, nor when a list does and evidence lifts it again."""
    place.write(CROWD | {900: YES}, age_s=2 * HOUR)
    plan = place.folder / "tonight.plan"
    assert place("plan", "-o", plan, "--quiet").code == Exit.OK
    assert place.opt_out(900).code == Exit.OK
    start = sent(platform)
    assert place("apply", plan, "--quiet").code == Exit.CONFIG
    assert place("run", "--quiet").code == Exit.OK
    evidence = place.folder / "evidence.csv"
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 1))
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n900,all,{now},web-form,E-1\n")
    assert place("reconsent", evidence).code == Exit.OK
    place("run", "--quiet")
    assert allowed_since(platform.platform, start) == [], "the export is from before the no"
    place.write(CROWD | {900: YES})
    assert place("run", "--quiet").code == Exit.OK
    assert allowed_since(platform.platform, start) == [900]


def test_a_newer_export_heals_what_was_held(place: Place, platform: Standin) -> None:
    """What was held for its age is sent by the next export that allows it, within the guards."""
    place.write(DENIED, age_s=HOUR)
    assert place("run", "--quiet").code == Exit.OK
    place.write(CROWD, age_s=HOUR + 60)
    assert place("run", "--quiet").code == Exit.HELD
    place.write(CROWD)
    assert place("run", "--quiet").code == Exit.OK
    assert platform.platform.state[1] == YES


def test_an_undo_grants_nobody(place: Place, platform: Standin) -> None:
    """It denies what the run allowed; what the run denied stays denied."""
    place.write({client: (NO if client in GONE else YES) for client in CROWD} | {900: YES}, age_s=HOUR)
    assert place("run", "--quiet").code == Exit.OK
    run = place.summary("runs")["runs"][-1]["run"]
    start = sent(platform)
    assert place("undo", run, "--quiet").code == Exit.OK
    stay_denied(platform, start)
    assert platform.platform.state[900] == NO


def test_a_backfill_of_an_older_export_overturns_nothing(place: Place, platform: Standin) -> None:
    """`backfill --all` sends again what the platform should hold, and not what somebody denied since."""
    desk = place.shipped("opt-out")
    place.write(CROWD, age_s=2 * HOUR)
    assert place("run", "--quiet").code == Exit.OK
    path = place.write(dict.fromkeys(GONE, NO), "list.csv", age_s=HOUR)
    assert place("run", path, "--quiet", config=desk).code == Exit.OK
    start = sent(platform)
    said = place("backfill", "--all", "--approve-grants", 292, "--quiet")
    assert said.code in (Exit.OK, Exit.HELD), said.err
    stay_denied(platform, start)
    assert len(allowed_since(platform.platform, start)) == 292


def test_a_date_from_the_future_is_brought_to_now(place: Place, platform: Standin) -> None:
    """A denial that a wrong clock dated in 400 days holds tonight's grant, and not those of later nights."""
    place.write(DENIED, age_s=HOUR)
    assert place("run", "--quiet").code == Exit.OK
    settings = load_settings(place.config)
    with State.open(settings.state.path, settings.endpoint.target, write=True) as state:
        held = state.holdings()
        ahead = Dates(held.dates.places, held.dates.times + 400 * 24 * HOUR)
        state.replace_holdings(replace(held, dates=ahead), time.time())
    place.write(CROWD)
    assert place("run", "--quiet").code == Exit.HELD
    os.utime(place.write(CROWD | {901: NONE}), (time.time() + 1, time.time() + 1))
    assert place("run", "--quiet").code == Exit.OK
    assert platform.platform.state[1] == YES


def test_a_denial_that_is_stated_again_is_as_new_as_that(place: Place, platform: Standin) -> None:
    """What an export from between the two allows is held; a newer one allows it."""
    place.config.write_text(place.config.read_text().replace('kind = "full"', 'kind = "delta"'))
    for age in (5, 3):
        assert place("run", place.write({1: NO}, f"{age}.csv", age_s=age * HOUR), "--quiet").code == Exit.OK
    full = place.shipped("nightly", called="full")
    place.write(CROWD | {1: YES}, age_s=4 * HOUR)
    assert place("run", "--quiet", config=full).code == Exit.HELD
    assert platform.platform.state[1] == NO
    place.write(CROWD | {1: YES}, age_s=2 * HOUR)
    assert place("run", "--quiet", config=full).code == Exit.OK
    assert platform.platform.state[1] == YES
