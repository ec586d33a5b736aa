"""A no that was read is owed until it is acknowledged, overtaken by a newer *allowed*, or closed by a person."""

import os
import time
from pathlib import Path

import pytest

from sync_job.errors import Exit
from sync_job.ledger import lock, tables
from sync_job.standin.background import Standin, running
from tests.commands import Cli
from tests.place import NO, NONE, YES, Place

HOUR = 3600.0
CROWD = dict.fromkeys(range(1, 1001), YES)
GONE = range(1, 151)  # more than the guard on revocations lets through


@pytest.fixture
def place(tmp_path: Path, platform: Standin, cli: Cli) -> Place:
    """Make a target that reads deltas, made from a full export of ten hours ago, with what the platform holds."""
    made = Place(tmp_path, platform.url, cli)
    made.init(CROWD, age_s=10 * HOUR)
    assert made("run", "--quiet").code == Exit.OK
    made.config.write_text(made.config.read_text().replace('kind = "full"', 'kind = "delta"'))
    return made


def denied(platform: Standin, clients: range = GONE) -> int:
    """Return how many of *clients* the platform has denied everything."""
    return sum(platform.platform.state.get(client) == NO for client in clients)


def approve(place: Place, count: int, what: str = "--revocations") -> int:
    """Approve what the first run held that still waits; return the exit code."""
    run = place.summary("approve")["held"][0]["run"]
    return place("approve", run, what, count, "--reason", "they said so", "--by", "CRM lead").code


def test_denials_of_a_delta_that_were_held_and_approved(place: Place, platform: Standin) -> None:
    """They go out with the next drain or run, whatever the next delta says."""
    assert place("run", place.write(dict.fromkeys(GONE, NO), "1.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    assert denied(platform) == 0
    assert approve(place, len(GONE)) == Exit.OK
    assert place("run", place.write({900: NO}, "2.csv", age_s=2 * HOUR), "--quiet").code == Exit.OK
    assert denied(platform) == len(GONE)
    assert place("drain", "--quiet").code == Exit.OK


def test_denials_of_a_delta_that_are_approved_after_the_next_one(place: Place, platform: Standin) -> None:
    """The next delta drops nothing of what was held, and an approval of it needs no run."""
    assert place("run", place.write(dict.fromkeys(GONE, NO), "1.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    assert place("run", place.write({900: NO}, "2.csv", age_s=2 * HOUR), "--quiet").code == Exit.OK
    assert approve(place, len(GONE) - 1) == Exit.CONFIG, "by their number alone"
    assert approve(place, len(GONE)) == Exit.OK
    assert place("drain", "--quiet").code == Exit.OK
    assert denied(platform) == len(GONE)
    assert place("state", "check").code == Exit.OK


def test_denials_in_a_delta_whose_ids_look_renumbered(place: Place, platform: Standin) -> None:
    """Nothing of it is sent, and its denials are owed all the same."""
    people = dict.fromkeys(range(1, 31), NO) | dict.fromkeys(range(5000, 5400), YES)
    assert place("run", place.write(people, "1.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    assert place("run", place.write({900: NO}, "2.csv", age_s=2 * HOUR), "--quiet").code == Exit.OK
    assert denied(platform, range(1, 31)) == 0
    assert approve(place, 30) == Exit.OK
    assert place("drain", "--quiet").code == Exit.OK
    assert denied(platform, range(1, 31)) == 30
    assert not any(client in platform.platform.state for client in range(5000, 5400))


def test_a_list_in_the_shape_of_an_export_that_was_held(place: Place, platform: Standin) -> None:
    """The night that was exported before it does not let it be forgotten."""
    desk = place.shipped("opt-out")
    path = place.write(dict.fromkeys(GONE, NO), "list.csv", age_s=2 * HOUR)
    assert place("run", path, "--quiet", config=desk).code == Exit.HELD
    night = place.shipped("nightly", called="full")
    place.write(CROWD, age_s=9 * HOUR)
    place("run", "--quiet", config=night)
    assert approve(place, len(GONE)) == Exit.OK
    assert place("drain", "--quiet").code == Exit.OK
    assert denied(platform) == len(GONE)


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_denials_that_wait_for_approval_wake_somebody(place: Place, platform: Standin, kind: str) -> None:
    """They count against the limit from the first night that held them, also when each night states them again."""
    place.config.write_text(place.config.read_text().replace('kind = "delta"', f'kind = "{kind}"'))
    for night in range(4):
        people = CROWD | dict.fromkeys(GONE, NO) if kind == "full" else dict.fromkeys(GONE, NO)
        path = place.write(people, f"{night}.csv", age_s=(9 - night) * HOUR)
        code = place("run", path, "--quiet").code
        assert code == (Exit.HELD if night < 2 else Exit.OBLIGATION), night
        place.let_pass(23 if night < 1 else 72)
    assert place("drain", "--quiet").code == Exit.OBLIGATION
    assert denied(platform) == 0
    found = place.summary("withdrawals", "status")
    assert found["past_limit"] == len(GONE)


def test_a_newer_allowed_ends_what_is_held(place: Place, platform: Standin) -> None:
    """A column that was inverted for a night: the right file of the next one leaves nothing to approve or to close."""
    full = place.shipped("nightly", called="full")
    place.write(CROWD | dict.fromkeys(GONE, NO), age_s=5 * HOUR)
    assert place("run", "--quiet", config=full).code == Exit.HELD
    place.write(CROWD | dict.fromkeys(GONE, NO), "old.csv", age_s=6 * HOUR)
    place.write(CROWD, age_s=4 * HOUR)
    assert place("run", "--quiet", config=full).code == Exit.OK
    assert place.summary("withdrawals", "status")["open"] == 0
    assert place.summary("approve")["held"] == []
    assert denied(platform) == 0


def test_an_older_allowed_does_not_end_what_is_held(place: Place, platform: Standin) -> None:
    """Nor a part of an unknown moment before it."""
    assert place("run", place.write(dict.fromkeys(GONE, NO), "1.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    part = place.write(dict.fromkeys(GONE, YES), "part.csv", age_s=5 * HOUR)
    place("run", "--part", part, "--quiet")
    assert place.summary("withdrawals", "status")["open"] == len(GONE)
    assert approve(place, len(GONE)) == Exit.OK


def test_what_is_held_can_be_closed_by_a_person(place: Place, platform: Standin) -> None:
    """One client at a time, with a reason, as any obligation."""
    assert place("run", place.write(dict.fromkeys(GONE, NO), "1.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    said = place("withdrawals", "close", "--client", 7, "--reason", "never was a member", "--by", "desk")
    assert said.code == Exit.OK, said.err
    assert approve(place, len(GONE) - 1) == Exit.OK
    assert place("drain", "--quiet").code == Exit.OK
    assert denied(platform) == len(GONE) - 1


def test_a_plan_with_held_denials_owes_them_when_it_is_applied(place: Place, platform: Standin) -> None:
    """What the plan leaves out is owed, for the delta will not be read again."""
    path, plan = place.write(dict.fromkeys(GONE, NO) | {900: NO}, "1.csv", age_s=3 * HOUR), place.folder / "1.plan"
    assert place("plan", path, "-o", plan, "--quiet").code == Exit.HELD
    assert place("apply", plan, "--quiet").code == Exit.HELD
    assert place.summary("withdrawals", "status")["open"] == len(GONE) + 1
    assert place("run", place.write({901: NO}, "2.csv", age_s=2 * HOUR), "--quiet").code == Exit.OK
    assert place("state", "check").code == Exit.OK


def test_somebody_to_whom_a_held_denial_is_owed_is_granted_nothing(place: Place, platform: Standin) -> None:
    """In no channel, until a person has decided."""
    people = dict.fromkeys(GONE, (False, None, None, None))
    assert place("run", place.write(people, "1.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    assert place.opt_out(2000).code == Exit.OK
    start = len(platform.platform.log)
    place("run", place.write(dict.fromkeys((1, 2), (None, True, None, None)), "2.csv"), "--quiet")
    assert [entry for entry in list(platform.platform.log)[start:] if entry.client in (1, 2)] == []


# Deltas are applied each once and in order


def test_a_delta_that_met_the_lock_is_not_passed_over(place: Place, platform: Standin) -> None:
    """The next one ends in 3 and names it; applied in order, both are delivered."""
    first = place.write(dict.fromkeys(range(1, 6), NO), "1.csv", age_s=3 * HOUR)
    with lock.held(place.folder / "state"):
        assert place("run", first, "--quiet").code == Exit.BUSY
    second = place.write({900: NO}, "2.csv", age_s=2 * HOUR)
    said = place("run", second)
    assert said.code == Exit.EXPORT
    assert "1.csv" in said.err
    assert "was not applied" in said.err
    assert place("run", first, "--quiet").code == Exit.OK
    assert place("run", second, "--quiet").code == Exit.OK
    assert denied(platform, range(1, 6)) == 5
    assert platform.platform.state[900] == NO


def test_a_delta_that_is_lost_is_given_up_by_its_number(place: Place) -> None:
    """Or made superfluous by a full export."""
    first = place.write({1: NO}, "1.csv", age_s=3 * HOUR)
    assert place("pause", "--reason", "x", "--by", "y").code == Exit.OK
    assert place("run", first, "--quiet").code == Exit.BUSY
    assert place("resume").code == Exit.OK
    first.unlink()
    second = place.write({900: NO}, "2.csv", age_s=2 * HOUR)
    assert place("run", second, "--quiet", "--skip-missed", 2).code == Exit.EXPORT
    assert place("run", second, "--quiet", "--skip-missed", 1).code == Exit.OK
    assert place("run", place.write({901: NO}, "3.csv", age_s=HOUR), "--quiet").code == Exit.OK


def test_a_full_export_makes_missed_deltas_superfluous(place: Place) -> None:
    """It states everybody, so nothing that they said is missing."""
    first = place.write({1: NO}, "1.csv", age_s=3 * HOUR)
    with lock.held(place.folder / "state"):
        assert place("run", first, "--quiet").code == Exit.BUSY
    full = place.shipped("nightly", called="full")
    place.write(CROWD | {1: NO}, age_s=2 * HOUR)
    assert place("run", "--quiet", config=full).code == Exit.OK
    assert place("run", place.write({901: NO}, "3.csv", age_s=HOUR), "--quiet").code == Exit.OK


def test_of_several_deltas_none_is_left_out(place: Place, platform: Standin) -> None:
    """`pick = "newest"` over a folder with two that nobody has applied: the older one has to go first."""
    text = place.config.read_text().replace("[export.columns]", 'pick = "newest"\n[export.columns]')
    place.config.write_text(text)
    folder = place.folder / "deltas"
    for name, client, age_s in (("1.csv", 1, 3 * HOUR), ("2.csv", 2, 2 * HOUR)):
        place.write({client: NO}, f"deltas/{name}", age_s=age_s)
    said = place("run", folder)
    assert said.code == Exit.EXPORT
    assert "1.csv" in said.err
    assert place("run", folder / "1.csv", "--quiet").code == Exit.OK
    assert place("run", folder, "--quiet").code == Exit.OK
    assert denied(platform, range(1, 3)) == 2


# Guards


def test_guards_count_a_day_and_not_a_run(place: Place, platform: Standin) -> None:
    """Six parts of ten re-grants each within a minute are sixty, and held from the eleventh on; a day later not."""
    full = place.shipped("nightly", called="full")
    people = CROWD | dict.fromkeys(range(1, 61), NO)
    place.write(people, age_s=5 * HOUR)
    assert place("run", "--quiet", config=full).code == Exit.OK
    codes = []
    for number in range(6):
        first = 1 + 10 * number
        part = place.write(dict.fromkeys(range(first, first + 10), YES), f"part-{number}.csv", age_s=HOUR)
        codes.append(place("run", "--part", part, "--quiet", config=full).code)
    assert codes == [Exit.OK] + [Exit.HELD] * 5
    place.let_pass(24)
    part = place.write(dict.fromkeys(range(11, 21), YES), "part-1.csv", age_s=HOUR / 2)
    assert place("run", "--part", part, "--quiet", config=full).code == Exit.OK
    assert sum(platform.platform.state[client] == YES for client in range(1, 61)) == 20


def test_a_run_that_is_killed_and_given_again_counts_nobody_twice(place: Place, platform: Standin) -> None:
    """What was not delivered is asked for again, and is no second grant."""
    full = place.shipped("nightly", called="full")
    place.write(CROWD | dict.fromkeys(range(1, 9), NO), age_s=5 * HOUR)
    assert place("run", "--quiet", config=full).code == Exit.OK
    place.write(CROWD, age_s=2 * HOUR)
    for _ in range(3):
        place("run", "--limit", 2, "--quiet", config=full)
    assert place("run", "--quiet", config=full).code == Exit.OK
    assert all(platform.platform.state[client] == YES for client in range(1, 9))


def test_ids_are_judged_though_every_night_was_doubted(place: Place, platform: Standin) -> None:
    """A missing column each night since `init`: another shop's file is noticed all the same."""
    full = place.shipped("nightly", called="full")
    path = place.write(CROWD, age_s=5 * HOUR)
    lines = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    assert place("run", "--quiet", config=full).code == Exit.HELD
    other = place.write(dict.fromkeys(range(50_000, 51_000), NO), "other.csv")
    lines = [line.rsplit(",", 1)[0] for line in other.read_text().splitlines()]
    other.write_text("\n".join(lines) + "\n")
    start = len(platform.platform.log)
    assert place("run", other, "--quiet", config=full).code == Exit.HELD
    assert len(platform.platform.log) == start


def test_the_counts_of_a_report_are_of_all_legs(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """Every planned client is in one lane, whether a list, an obligation or the export has sent it."""
    place = Place(tmp_path, platform.url, cli)
    place.init(CROWD, age_s=10 * HOUR)
    assert place.opt_out(5, 6).code == Exit.OK
    place.write(CROWD | {7: NO, 8: NONE, 2000: YES}, age_s=HOUR)
    summary = place.summary("run")
    assert sum(summary["lanes"].values()) == summary["planned"]


@pytest.mark.parametrize("how", ["opt-out", "erasure"])
def test_who_asks_does_not_wait_for_what_a_guard_holds(place: Place, platform: Standin, how: str) -> None:
    """A list or an erasure denies at once what an export denied and a guard holds; the others still wait."""
    assert place("run", place.write(dict.fromkeys(GONE, NO), "1.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    if how == "opt-out":
        assert place.opt_out(7).code == Exit.OK
    else:
        assert (
            place("forget", place.write({7: NONE}, "erase.csv"), "--reason", "art. 17", "--by", "DPO").code == Exit.OK
        )
    place("drain", "--quiet")
    assert platform.platform.state[7] == NO
    assert denied(platform) == 1
    if how == "erasure":
        assert place.rows("SELECT count(*) FROM obligations WHERE client = 7") == [(0,)]
    assert approve(place, len(GONE) - 1) == Exit.OK
    assert place("drain", "--quiet").code == Exit.OK
    assert denied(platform) == len(GONE)


def test_a_held_denial_that_is_stated_again_is_not_overtaken_from_between(place: Place, platform: Standin) -> None:
    """What was allowed between the two statements is older than the second."""
    assert place("run", place.write(dict.fromkeys(GONE, NO), "1.csv", age_s=5 * HOUR), "--quiet").code == Exit.HELD
    assert place("run", place.write(dict.fromkeys(GONE, NO), "2.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    place.write(CROWD, age_s=4 * HOUR)
    place("run", "--quiet", config=place.shipped("nightly", called="full"))
    assert place.summary("approve")["held"][0]["revocations"] == len(GONE)


def test_a_delta_that_is_asked_for_is_no_orphan(place: Place) -> None:
    """Its note in the inbox is what keeps a later delta from passing it over."""
    path = place.write({900: NO}, "1.csv", age_s=3 * HOUR)
    with lock.held(place.folder / "state"):
        assert place("run", path, "--quiet").code == Exit.BUSY
    said = place("state", "check")
    assert said.code == Exit.OK
    assert "asked for" in place("state", "check", "--all").out or "orphan" not in said.out


def test_another_delta_in_the_same_file_is_not_the_one_that_was_missed(place: Place, platform: Standin) -> None:
    """The CRM writes it over the first, with as many bytes."""
    place.write({11: NO}, age_s=3 * HOUR)
    with lock.held(place.folder / "state"):
        assert place("run", "--quiet").code == Exit.BUSY
    missed = place.export.read_bytes()
    place.write({12: NO}, age_s=2 * HOUR)
    assert place.export.stat().st_size == len(missed)
    assert place("run", "--quiet").code == Exit.EXPORT
    (place.folder / "moved.csv").write_bytes(missed)
    made = time.time() - 3 * HOUR
    os.utime(place.folder / "moved.csv", (made, made))
    assert place("run", place.folder / "moved.csv", "--quiet").code == Exit.OK, "wherever it lies, by what it says"
    assert place("run", "--quiet").code == Exit.OK
    assert denied(platform, range(11, 13)) == 2


@pytest.mark.parametrize("how", ["run", "apply"])
def test_a_delta_is_not_done_before_its_plan_is_durable(
    place: Place, platform: Standin, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies while it sends what a list owes has applied nothing: the next delta names the first."""
    first = place.write(dict.fromkeys(range(1, 9), NO), "1.csv", age_s=3 * HOUR)
    arguments: list[object] = ["run", first]
    if how == "apply":
        arguments = ["apply", place.folder / "plan"]
        assert place("plan", first, "-o", place.folder / "plan", "--quiet").code == Exit.OK
    with monkeypatch.context() as patched:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(tables, "write_plan", die)
        assert place(*arguments, "--quiet").code != Exit.OK
    second = place.write({900: NO}, "2.csv", age_s=2 * HOUR)
    said = place("run", second)
    assert (said.code, "1.csv" in said.err) == (Exit.EXPORT, True)
    assert place("run", first, "--quiet").code == Exit.OK
    assert place("run", second, "--quiet").code == Exit.OK
    assert denied(platform, range(1, 9)) == 8


def test_a_delta_owes_what_a_list_owes_too(tmp_path: Path, cli: Cli) -> None:
    """When the list is void, the delta's no is owed all the same."""
    with running() as platform:
        place = Place(tmp_path, platform.url, cli)
        place.init(CROWD, age_s=10 * HOUR)
        assert place("run", "--quiet").code == Exit.OK
        place.config.write_text(place.config.read_text().replace('kind = "full"', 'kind = "delta"'))
        path = place.folder / "opt-outs.csv"
        path.write_text("Client\n7\n")
        platform.stop()
        basis = ("--received-at", "2026-01-01T00:00:00+00:00", "--scope", "all", "--basis", "objection")
        assert place("opt-out", path, *basis).code != Exit.OK
        assert place("run", place.write({7: NO}, "1.csv", age_s=HOUR), "--quiet").code != Exit.OK
        digest = place.rows("SELECT digest FROM lists")[0][0]
        assert (
            place(
                "withdrawals", "void", "--list", digest, "--reason", "a test list", "--by", "x", "--approved-by", "DPO"
            ).code
            == Exit.OK
        )
        assert place.summary("withdrawals", "status")["open"] == 1


def test_the_approval_that_a_report_asks_for_is_taken(place: Place, platform: Standin) -> None:
    """Who was closed by a person, or is owed a denial by a list, is not in its number."""
    assert place("run", place.write(dict.fromkeys(GONE, NO), "1.csv", age_s=3 * HOUR), "--quiet").code == Exit.HELD
    assert place("withdrawals", "close", "--client", 3, "--reason", "r", "--by", "b").code == Exit.OK
    assert place.opt_out(1, 2).code == Exit.OK
    made = place.summary("run", place.write(dict.fromkeys(GONE, NO), "2.csv", age_s=2 * HOUR))
    assert approve(place, made["approvable"]["revocations"]) == Exit.OK


def test_a_file_of_a_clock_that_is_ahead_outdoes_no_later_denial(place: Place, platform: Standin) -> None:
    """It is no newer than when it was read first."""
    full = place.shipped("nightly", called="full")
    place.write(CROWD, age_s=-600)
    assert place("run", "--quiet", config=full).code == Exit.OK
    assert place("run", place.write({5: NO}, "no.csv"), "--quiet", config=place.shipped("opt-out")).code == Exit.OK
    assert place("run", "--quiet", config=full).code == Exit.HELD
    assert platform.platform.state[5] == NO
