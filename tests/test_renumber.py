"""The platform's ids change: all that is known moves at once, denied stays denied, a death in between does no harm."""

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sync_job
from sync_job.consent import renumber as moving
from sync_job.consent.channels import ALLOWED, DENIED, NOTHING, Ids, pack, unpack
from sync_job.consent.known import Holdings
from sync_job.consent.renumber import IdMap, Lookup
from sync_job.errors import BusyError, ConfigError, Exit, ExportError, StateError
from sync_job.ledger import anchor, lock
from sync_job.report import people_text
from sync_job.runs import drain, erasure, forgetting, history, intake, pausing, planning, recover, renumber
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop
from tests.test_erasure import Died, dies_at, traces

YES, NO, NOT_SAID = (True,) * 4, (False,) * 4, (None,) * 4
ALL = 0b01010101

few = st.integers(1, 9)
bytes_ = st.lists(st.sampled_from((NOTHING, DENIED, ALLOWED)), min_size=4, max_size=4).map(pack)
maps = st.dictionaries(few, few, max_size=8)


def ids(*clients: int) -> Ids:
    """Return clients as an array."""
    return np.array(clients, np.int32)


def map_of(pairs: Mapping[int, int]) -> IdMap:
    """Return a map of pairs."""
    found, torn = moving.sort(ids(*pairs), ids(*pairs.values()))
    assert not len(torn)
    return found


def holdings_of(held: Mapping[int, tuple[int, int]]) -> Holdings:
    """Return holdings of State and Due by client; those with nothing are left out."""
    full = {client: both for client, both in sorted(held.items()) if any(both)}
    return Holdings(
        ids(*full), np.array([s for s, _ in full.values()], np.uint8), np.array([d for _, d in full.values()], np.uint8)
    )


def as_dict(holdings: Holdings) -> dict[int, tuple[int, int]]:
    """Return State and Due by client."""
    rows = zip(holdings.client.tolist(), holdings.state.tolist(), holdings.due.tolist(), strict=True)
    return {client: (state, due) for client, state, due in rows}


def joined(those: list[tuple[int, int]]) -> tuple[int, int]:
    """Return State and Due of one channel of clients that become one, by the plain rules."""
    states, dues = {state for state, _ in those}, {due for _, due in those}
    state = states.pop() if len(states) == 1 else NOTHING
    if len({*those}) == 1:
        return those[0]
    if any(DENIED in both for both in those):
        return state, DENIED
    if all(ALLOWED in both for both in those) and ALLOWED in dues:
        return state, ALLOWED
    return state, NOTHING


@given(st.dictionaries(few, st.tuples(bytes_, bytes_)), maps)
def test_holdings_move_by_the_plain_rules(held: dict[int, tuple[int, int]], pairs: dict[int, int]) -> None:
    """Everyone is found under the new id; of several in one, no denial is lost and no *allowed* is made."""
    held = {client: both for client, both in held.items() if any(both)}
    while others := moving.onto_others(map_of(pairs), ids(*sorted(held))).tolist():
        pairs = {old: new for old, new in pairs.items() if new not in others}
    sources: dict[int, list[int]] = {}
    for client in {*held, *pairs}:
        sources.setdefault(pairs.get(client, client), []).append(client)
    found = as_dict(moving.move(holdings_of(held), map_of(pairs)))
    for client, those in sources.items():
        state, due = (unpack(byte) for byte in found.get(client, (0, 0)))
        before = [tuple(zip(*map(unpack, held.get(one, (0, 0))), strict=True)) for one in those]
        for channel in range(4):
            all_of = [one[channel] for one in before]
            now = (state[channel], due[channel])
            assert now == joined(all_of)
            assert (DENIED in now) == any(DENIED in one for one in all_of)
            assert (now[0] == ALLOWED) == all(one[0] == ALLOWED for one in all_of)
    assert set(found) <= set(sources)


@given(st.lists(st.tuples(few, few)), st.randoms())
def test_a_map_is_a_function_in_any_order(pairs: list[tuple[int, int]], rng: Any) -> None:
    """A pair said twice is one; an old id with two new ones is found, whatever the order of the rows."""
    rng.shuffle(pairs)
    found, torn = moving.sort(ids(*(old for old, _ in pairs)), ids(*(new for _, new in pairs)))
    news: dict[int, set[int]] = {}
    for old, new in pairs:
        news.setdefault(old, set()).add(new)
    assert torn.tolist() == sorted(old for old, those in news.items() if len(those) > 1)
    if not len(torn):
        assert dict(zip(found.old.tolist(), found.new.tolist(), strict=True)) == {o: n.pop() for o, n in news.items()}


@given(maps, st.lists(few, unique=True).map(sorted))
def test_who_is_moved_onto_is_listed_or_unknown(pairs: dict[int, int], known: list[int]) -> None:
    """A known client onto whom another moves must be listed itself."""
    found = moving.onto_others(map_of(pairs), ids(*known)).tolist()
    assert found == sorted({new for old, new in pairs.items() if new != old and new in known and new not in pairs})


@given(st.dictionaries(st.one_of(few, st.integers(1, 2**31 - 1)), few), st.lists(few))
def test_a_lookup_is_the_map(pairs: dict[int, int], wanted: list[int]) -> None:
    """Whether old ids lie close together or far apart; who is not listed has no id."""
    wanted += list(pairs)
    assert Lookup(map_of(pairs)).of(ids(*wanted)).tolist() == [pairs.get(one, 0) for one in wanted]
    assert map_of(pairs).moved(ids(*wanted)).tolist() == [pairs.get(one, one) for one in wanted]


@given(st.lists(maps, max_size=3), st.lists(few, unique=True).map(sorted))
def test_a_list_means_whoever_it_may_mean(applied: list[dict[int, int]], listed: list[int]) -> None:
    """Map after map: the new id; and the same id, too, where the map gives it to another."""
    place, found = moving.meant(ids(*listed), [map_of(pairs) for pairs in applied])
    expected = []
    for number, client in enumerate(listed):
        those = {client}
        for pairs in applied:
            those = {pairs.get(one, one) for one in those} | {o for o in those if o in pairs and o in pairs.values()}
        expected += [(number, one) for one in sorted(those)]
    assert list(zip(place.tolist(), found.tolist(), strict=True)) == expected


@given(maps, st.lists(few, min_size=1, unique=True))
def test_who_came_from_where(pairs: dict[int, int], clients: list[int]) -> None:
    """The ids before a map are all those that it brings there; who has nothing to do with it had the same id."""
    every = {client for client in range(1, 10) if client in pairs or client not in pairs.values()}
    expected = {client for client in every if pairs.get(client, client) in clients}
    assert map_of(pairs).came_from(ids(*clients)).tolist() == sorted(expected)


# Whole states


@pytest.fixture
def platform() -> Iterator[Standin]:
    """Return a platform that knows everybody."""
    with running(Options()) as started:
        yield started


def write_map(shop: Shop, pairs: Mapping[int, int] | str, name: str = "map.csv") -> Path:
    """Return the file of a map."""
    path = shop.folder / name
    text = pairs if isinstance(pairs, str) else "".join(f"{old},{new}\n" for old, new in pairs.items())
    path.write_text(f"old_id,new_id\n{text}")
    return path


def moved(shop: Shop, pairs: Mapping[int, int] | str, name: str = "map.csv") -> dict[str, Any]:
    """Renumber, and return what is said of it."""
    return renumber.renumber(shop.settings, write_map(shop, pairs, name), Watch(), reason="migration", by="ops")


def everything(shop: Shop, *among: int) -> dict[str, Any]:
    """Return all that is known of clients, each under its id."""
    now = time.time()
    with shop.state() as state:
        ledger = state.ledger
        lingering = ledger.lingering()
        waiting = ledger.obligations.waiting()
        buried = erasure.tombstones(shop.settings).of(ids(*among))
        withdrawn = ledger.withdrawals.in_force()
        return {
            "holds": as_dict(state.holdings()),
            "withdrawn": dict(zip(*(part.tolist() for part in withdrawn.items()), strict=True)),
            "withdrawals": sorted(
                (client, one["channels"], one["request_ref"])
                for client in ledger.withdrawals.clients().tolist()
                for one in ledger.withdrawals.of(client)["withdrawals"]
            ),
            "reconsents": {
                client: len(ledger.withdrawals.of(client)["reconsents"])
                for client in ledger.withdrawals.clients().tolist()
            },
            "owed": shop.owed(),
            "waiting": dict(zip(waiting.client.tolist(), waiting.sent.tolist(), strict=True)),
            "lingering": dict(zip(lingering.client.tolist(), lingering.acknowledged.tolist(), strict=True)),
            "asked": ledger.forgetting.asked().tolist(),
            "approved": dict(zip(*(part.tolist() for part in ledger.applied.approved(now).items()), strict=True)),
            "undone": sorted(ledger.undone()),
            "buried": [client for client, dead in zip(among, buried.tolist(), strict=True) if dead],
            "held": len(ledger.applied.held_runs()),
        }


def insert(shop: Shop, *statements: str) -> None:
    """Put rows into the ledger that a test would otherwise need many nights for; :now and :later are times."""
    now = time.time()
    with contextlib.closing(sqlite3.connect(shop.settings.state.path / "ledger.db")) as db, db:
        for statement in statements:
            db.execute(statement, {"now": now, "later": now + 86400})


def full_state(folder: Path, url: str) -> Shop:
    """Return a shop in which each kind of thing is known of clients 1 to 9; 8 was erased, and 20 is nobody."""
    folder.mkdir(exist_ok=True)
    shop = Shop(folder, url)
    shop.write({1: YES, 2: NO, 3: YES, 4: NO, 5: NOT_SAID, 7: YES, 8: NO, 9: YES})
    shop.init("equal")
    forgetting.forget(shop.settings, ids(8), "R-8", Watch())
    shop.withdraw({1: "sms", 3: "all"}, request_ref="R-1")
    drain.drain(shop.settings, "drain", Watch())
    shop.withdraw({4: "email"}, request_ref="R-4")
    insert(
        shop,
        "INSERT INTO waiting VALUES (3, 1, 1, 0, :later, 0), (9, 2, 1, 0, :later, 0), (2, 1, 1, 0, :later, 1)",
        "INSERT INTO lingering VALUES (1, :later, 1), (2, :later, 0)",
        "INSERT INTO forgetting VALUES (7, 'R-7', :now)",
        "INSERT INTO obligations (client, channels, owed, source, started, limit_at) "
        "VALUES (7, 64, 64, 'erasure', 0, :later)",
        "INSERT INTO approvals VALUES (1, '0001', 'grants', 2, '', '', '', 0, 9e9)",
        "INSERT INTO approved VALUES (5, 1, 2, 0), (2, 1, 1, 0)",
        "INSERT INTO holds VALUES ('0001', 0, 'full', '', 2, 2, 0, '[]')",
        "INSERT INTO reconsents VALUES (3, 1, 1, 'form', 'E-1', 0)",
        "INSERT OR IGNORE INTO undone VALUES ('refused', '9'), ('reject', '9')",
    )
    with recover.holding(shop.settings):
        return shop  # the list is taken in, and nothing of it sent


CHAIN = {1: 2, 2: 3, 3: 1, 4: 14, 5: 15, 7: 17, 8: 18, 9: 9, 20: 21}


def test_all_that_is_known_moves_at_once(tmp_path: Path, platform: Standin) -> None:
    """A chain, a move and nobody: each thing that was known of an old id is known of the new one, and of no other."""
    shop = full_state(tmp_path, platform.url)
    before = everything(shop, 8, 18)
    found = moved(shop, CHAIN)
    assert {name: found[name] for name in ("moved", "merged", "unknown", "tombstones", "to_be_erased")} == {
        "moved": 6,
        "merged": 0,
        "unknown": 1,
        "tombstones": 1,
        "to_be_erased": 0,
    }
    after = everything(shop, 8, 18)
    for name in ("holds", "withdrawn", "owed", "lingering", "approved", "reconsents"):
        assert before[name]
        assert after[name] == {CHAIN.get(client, client): what for client, what in before[name].items()}, name
    assert after["withdrawals"] == sorted((CHAIN[client], *said) for client, *said in before["withdrawals"])
    assert after["waiting"] == {1: 1, 9: 2}, "who was not known by the old id is tried by the new one"
    assert (after["asked"], before["buried"], after["buried"]) == ([17], [8], [18])
    assert set(before["undone"]) == set(after["undone"]) == {("refused", "9"), ("reject", "9")}
    assert (before["held"], after["held"]) == (1, 0), "the next run holds it anew, and a person looks anew"
    anchored = anchor.read(shop.settings.state.keys, shop.settings.endpoint.target)
    with shop.state() as state:
        place = state.ledger.place()
        assert state.ledger.renumbered_since(place["run"])
        assert not state.ledger.renumbered_since(place["run"] + 1)
    assert anchored is not None
    assert (anchored.snapshot, anchored.renumberings, anchored.tombstones) == (place["snapshot"], 1, 1)
    with pytest.raises(ConfigError, match="this map was applied after run"):
        moved(shop, dict(reversed(CHAIN.items())), "again.csv")
    assert everything(shop, 8, 18) == after


def test_several_in_one_keep_every_restriction(tmp_path: Path, platform: Standin) -> None:
    """Unequal State is nothing with the denial due; withdrawals, what is owed and erasure are of both."""
    shop = full_state(tmp_path, platform.url)
    found = moved(shop, {1: 30, 2: 30, 3: 33, 4: 33, 5: 35, 9: 35, 7: 37, 20: 37})
    assert (found["merged"], found["unknown"], found["to_be_erased"]) == (3, 1, 0)
    after = everything(shop)
    assert after["holds"][30] == (pack((1, 0, 0, 0)), pack((0, 1, 1, 1))), "1 had withdrawn Sms, 2 has all denied"
    assert after["withdrawn"] == {30: 0b1, 33: ALL}
    assert sorted(after["withdrawals"]) == [(30, 1, "R-1"), (33, 0b100, "R-4"), (33, ALL, "R-1")]
    assert after["holds"][35] == (0, 0) if 35 in after["holds"] else True, "5 had nothing where 9 was allowed"
    assert after["owed"][33] == 0b100
    assert after["owed"][37] & 0b01000000
    assert after["approved"] == {30: 1}, "a denial that was approved; the grant is to be looked at again"
    assert after["waiting"] == {}
    assert after["asked"] == [37]


def test_the_same_withdrawal_of_two_is_one_of_both_lists(tmp_path: Path, platform: Standin) -> None:
    """To void one of the lists takes nothing with it that the other said."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: YES})
    shop.init("equal")
    when = time.time() - 60
    first = shop.withdraw({1: "sms"}, received_at=when)
    second = shop.withdraw({2: "sms"}, received_at=when)
    drain.drain(shop.settings, "drain", Watch())
    moved(shop, {1: 3, 2: 3})
    assert everything(shop)["withdrawals"] == [(3, 1, "")]
    for digest, left in ((first, {3: 1}), (second, {})):
        with shop.state(write=True) as state:
            state.ledger.withdrawals.void(digest, "wrong", "a", "b", time.time())
        assert everything(shop)["withdrawn"] == left


def test_who_becomes_one_with_somebody_erased_is_erased(tmp_path: Path, platform: Standin) -> None:
    """But not before what they are allowed is denied: nobody would know of it afterwards."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: YES})
    shop.init("equal")
    forgetting.forget(shop.settings, ids(1), "R-1", Watch())
    found = moved(shop, {1: 3, 2: 3})
    assert found["to_be_erased"] == 1
    assert everything(shop, 3)["asked"] == [3]
    assert shop.owed() == {3: ALL}
    drain.drain(shop.settings, "drain", Watch())
    after = everything(shop, 1, 2, 3)
    assert (after["asked"], after["holds"], after["buried"]) == ([], {}, [3])


def test_two_erased_clients_in_one_are_no_loss(tmp_path: Path, platform: Standin) -> None:
    """One code is left of two, and the next run does not miss the other."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: NO, 2: NO, 4: YES})
    shop.init("equal")
    forgetting.forget(shop.settings, ids(1, 2), "R-1", Watch())
    moved(shop, {1: 3, 2: 3, 4: 1})
    assert everything(shop, 1, 2, 3)["buried"] == [3]
    drain.drain(shop.settings, "drain", Watch())
    assert list(everything(shop)["holds"]) == [1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,5\n2,6\n1,7\n", r"1 ids of 'old_id' have more than one 'new_id' \(line 2: 1 to 5; line 4: 1 to 7\)"),
        ("1,5\nx,6\n2,\n", r"2 rows are not two ids \(line 3; line 4\)"),
        ("1,5\n\n2,6,7\n", r"1 rows are not two ids \(line 4\)"),
        ("3,4\n1,2\n", r"it moves onto 1 clients that are known and that it does not list \(line 3: 1 to 2\)"),
        ("3,4\n1,9\n", r"it moves onto 1 clients that are known and that it does not list \(line 3: 1 to 9\)"),
        ("", "a map without rows"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(tmp_path: Path, platform: Standin, text: str, said: str) -> None:
    """With its lines, and nothing has changed; also where the client that it does not list was erased."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: NO, 9: NO})
    shop.init("equal")
    forgetting.forget(shop.settings, ids(9), "R-9", Watch())
    before = everything(shop, 9)
    with pytest.raises(ConfigError, match=said):
        moved(shop, text)
    with pytest.raises(ConfigError, match=said):
        renumber.check(shop.settings, write_map(shop, text), Watch())
    assert everything(shop, 9) == before


def test_a_map_is_found_by_its_two_columns(tmp_path: Path, platform: Standin) -> None:
    """In Parquet as in CSV, whatever else it has; without them it is no map."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES})
    shop.init("equal")
    path = tmp_path / "map.parquet"
    pq.write_table(pa.table({"name": ["a"], "new_id": pa.array([2], pa.int64()), "old_id": pa.array([1])}), path)
    said = renumber.check(shop.settings, path, Watch())
    assert (said["moved"], said["rows"], said["checked"]) == (1, 1, True)
    (tmp_path / "other.csv").write_text("from,to\n1,2\n")
    with pytest.raises(ExportError, match="one column 'old_id' and one 'new_id'"):
        renumber.check(shop.settings, tmp_path / "other.csv", Watch())
    with pytest.raises(ExportError, match="no such file"):
        renumber.check(shop.settings, tmp_path / "none.csv", Watch())
    assert list(everything(shop)["holds"]) == [1]


def test_nothing_moves_while_another_is_at_it_or_nobody_signs(tmp_path: Path, platform: Standin) -> None:
    """A held lock, a run that died, and a missing name or reason; a pause keeps nothing from being renumbered."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES})
    shop.init("equal")
    path = write_map(shop, {1: 2})
    for reason, by in (("", "ops"), ("why", " ")):
        with pytest.raises(ConfigError, match="say why"):
            renumber.renumber(shop.settings, path, Watch(), reason=reason, by=by)
    with lock.held(shop.settings.state.path):
        with pytest.raises(BusyError):
            moved(shop, {1: 2})
        with pytest.raises(BusyError):
            renumber.check(shop.settings, path, Watch())
    with shop.state(write=True) as state:
        state.ledger.begin("run", time.time(), "died")
    with pytest.raises(StateError, match="has not been finished"):
        renumber.check(shop.settings, path, Watch())
    pausing.pause(shop.settings, reason="migration", by="ops")
    assert moved(shop, {1: 2})["moved"] == 1, "what died was finished first"


def test_a_list_with_old_ids_finds_who_is_meant(tmp_path: Path, platform: Standin) -> None:
    """An old id is the new one's; one that now is another's withdraws for both; a new one is its own."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: YES, 3: YES, 4: YES})
    shop.init("equal")
    moved(shop, {1: 11, 2: 3, 3: 2})
    moved(shop, {11: 12}, "second.csv")
    said = intake.check(shop.settings, shop.listing({1: "sms", 2: "email", 4: "push"}), Watch())
    assert (said["clients"], said["known"]) == (4, 4)
    shop.withdraw({1: "sms", 2: "email", 4: "push"})
    sent = platform.requests
    drain.drain(shop.settings, "drain", Watch())
    assert everything(shop)["withdrawn"] == {12: 0b1, 2: 0b100, 3: 0b100, 4: 0b10000}
    assert platform.requests - sent == 4
    assert shop.owed() == {}


def test_a_plan_from_before_is_not_sent(tmp_path: Path, platform: Standin) -> None:
    """Its ids are other people's."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES})
    shop.init("equal")
    shop.write({1: YES, 2: NO})
    planning.plan(shop.settings, Watch(), tmp_path / "plan", Wish())
    moved(shop, {5: 6})
    with pytest.raises(ConfigError, match="the platform's ids changed since it was made"):
        planning.apply(shop.settings, tmp_path / "plan", Watch())


OLD, NEW = 1_987_654_321, 1_765_432_189


def test_nothing_is_left_of_who_is_erased_under_another_id(tmp_path: Path, platform: Standin) -> None:
    """Reports of before have the old id, and so have the kept map and what was held: all of it goes."""
    shop = Shop(tmp_path, platform.url, guards="")
    crowd = {client: YES if client % 2 else NO for client in range(1, 400)}
    shop.write(crowd | {OLD: YES})
    shop.init("equal")
    shop.write({client: NO if client % 2 else YES for client in crowd} | {OLD: NO})
    sync_job.run(shop.settings)
    shop.withdraw({OLD: "sms"})
    drain.drain(shop.settings, "drain", Watch())
    moved(shop, {OLD: NEW})
    found = history.history(shop.settings, NEW)
    assert (found["ids"][0]["was"], found["ids"][0]["after_run"]) == ([OLD], 3)
    assert f"up to run 3 its id was {OLD}" in people_text.history(found)
    assert traces(shop.folder / "reports", OLD)
    assert forgetting.forget(shop.settings, ids(NEW), "R-1", Watch())["forgotten"] == 1
    places = [shop.settings.state.path, shop.settings.report.path, shop.settings.state.keys]
    assert [traces(place, client) for client in (OLD, NEW) for place in places] == [[]] * 6


def test_a_renumbering_that_dies_anywhere_is_whole_or_was_not(tmp_path: Path, platform: Standin) -> None:
    """At every write: the next command, or the same again, makes of it what it would have been."""
    full_state(tmp_path / "first", platform.url)
    (tmp_path / "whole").mkdir()
    shutil.copytree(tmp_path / "first", tmp_path / "whole", dirs_exist_ok=True)
    whole = Shop(tmp_path / "whole", platform.url)
    moved(whole, CHAIN)
    expected = everything(whole, 8, 18)
    ways = set()
    for number in range(1, 200):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", folder)
        shop = Shop(folder, platform.url)
        with pytest.MonkeyPatch.context() as patch:
            died = dies_at(number, patch)
            with contextlib.suppress(Died):
                moved(shop, CHAIN)
        if not died():
            break
        with shop.state() as state:
            committed = state.ledger.renumberings.count() == 1
        ways.add(committed)
        if committed:
            with pytest.raises(ConfigError, match="this map was applied"):
                moved(shop, CHAIN)  # the lock was taken for it, so that what was missing is made good
        else:
            moved(shop, CHAIN)
        found = everything(shop, 8, 18)
        assert found == expected, f"died at write {number}"
        assert not [path for path in shop.settings.state.keys.iterdir() if ".tombstones." in path.name]
        anchored = anchor.read(shop.settings.state.keys, shop.settings.endpoint.target)
        assert anchored is not None
        assert anchored.renumberings == 1
        shutil.rmtree(folder)
    assert number > 5
    assert ways == {True, False}


def test_a_backup_from_before_is_renumbered_first(tmp_path: Path, platform: Standin) -> None:
    """Nothing is done with it before: its ids are other people's. Then it is a restored backup like any."""
    shop = full_state(tmp_path / "shop", platform.url)
    shutil.copytree(shop.settings.state.path, tmp_path / "backup")
    before = everything(shop, 8, 18)
    moved(shop, CHAIN)
    drain.drain(shop.settings, "drain", Watch())
    shutil.rmtree(shop.settings.state.path)
    shutil.copytree(tmp_path / "backup", shop.settings.state.path)
    with pytest.raises(StateError, match="a backup from before the platform's ids changed"):
        drain.drain(shop.settings, "drain", Watch())
    moved(shop, CHAIN)
    after = everything(shop, 8, 17, 18)
    assert after["withdrawn"] == {CHAIN[client]: what for client, what in before["withdrawn"].items()}
    assert after["buried"] == [17, 18], "the codes beside the keys had moved already"
    assert set(after["holds"]) == {CHAIN[client] for client in before["holds"]} - {17}, "17 was erased since"
    with shop.state() as state:
        assert state.ledger.about.restored() == "older"


def test_the_command_says_what_moved(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """--check changes nothing; --json has the figures; a map that was applied ends in 2."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: NO})
    shop.init("equal")
    path = write_map(shop, {1: 3, 2: 3, 8: 9})
    signed = ("--reason", "migration", "--by", "ops", "--config", shop.config)
    assert "would move 2 clients" in cli("state", "renumber", path, "--check", "--config", shop.config).out
    assert list(everything(shop)["holds"]) == [1, 2]
    said = json.loads(cli("state", "renumber", path, *signed, "--json").out)
    assert (said["moved"], said["merged"], said["unknown"]) == (2, 1, 1)
    assert cli("state", "renumber", path, *signed).code == Exit.CONFIG


@settings(max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_large_maps_on_large_snapshots_take_seconds(seed: int) -> None:
    """The pure part of it: no client is looked at one by one."""
    rng = np.random.default_rng(seed)
    client = np.arange(1, 3_000_000, dtype=np.int32)
    held = Holdings(client, np.full(len(client), 1, np.uint8), np.zeros(len(client), np.uint8))
    old = rng.choice(client, 300_000, replace=False)
    found, _ = moving.sort(old, rng.permutation(old))
    began = time.process_time()
    assert len(moving.move(held, found)) == len(held)
    assert time.process_time() - began < 5
