import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise, permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent.settlement import Acknowledged, OwedSince, Refused, Revoked, Settlement
from sync_job.ledger.inbox import SCHEMA
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.withdrawals import Absorbed, Voided
from sync_job.report import withdrawals_text

SMS, EMAIL, PUSH, CHEQUE, ALL = 1, 4, 16, 64, 85
BITS = (SMS, EMAIL, PUSH, CHEQUE)
NOW = 1000.0
LIMIT_S = 100.0
DAY = 86400.0


class Row(NamedTuple):
    """A row of a list, in the order of its columns."""

    client: int
    channels: int = ALL
    received_at: float = 5.0
    withdrawn_at: float = 4.0
    basis: int = 0
    request_ref: str = ""

    @property
    def identity(self) -> tuple[int, int, float, str]:
        """What makes it the same withdrawal."""
        return self.client, self.channels, self.withdrawn_at, self.request_ref


class Grant(NamedTuple):
    """A row of evidence, in the order of its columns."""

    client: int
    channels: int
    granted_at: float
    method: str = "form"
    evidence_ref: str = "f-1"


# So few of everything that rows meet.
ROWS = st.builds(
    Row,
    client=st.integers(1, 3),
    channels=st.sampled_from((SMS, SMS | EMAIL, ALL)),
    received_at=st.sampled_from((10.0, 11.0, 12.0)),
    withdrawn_at=st.sampled_from((1.0, 3.0, 5.0)),
    basis=st.integers(0, 3),
    request_ref=st.sampled_from(("", "r")),
)
LISTS = st.lists(st.lists(ROWS, min_size=1, max_size=6), min_size=1, max_size=5)
GRANTS = st.builds(
    Grant,
    client=st.integers(1, 4),
    channels=st.sampled_from((SMS, EMAIL, SMS | EMAIL, ALL)),
    granted_at=st.sampled_from((0.0, 2.0, 3.0, 4.0, 6.0, NOW + 1)),
    method=st.just("form"),
    evidence_ref=st.just("f-1"),
)


@contextmanager
def _fresh() -> Iterator[Ledger]:
    with TemporaryDirectory() as place, Ledger.create(Path(place) / "ledger.db", "somewhere", 1.0) as ledger:
        yield ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Return a ledger with nothing in it."""
    with Ledger.create(tmp_path / "ledger.db", "somewhere", 1.0) as made:
        yield made


def _batches(rows: Iterable[Row], cuts: Iterable[int] = ()) -> list[pa.RecordBatch]:
    rows = list(rows)
    table = pa.Table.from_pylist([row._asdict() for row in rows], SCHEMA)
    places = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    return [batch for start, end in pairwise(places) for batch in table.slice(start, end - start).to_batches()]


def _absorb(
    ledger: Ledger, digest: str, rows: Iterable[Row], *, now: float = NOW, cuts: Iterable[int] = ()
) -> Absorbed:
    about = {"digest": digest, "source": f"{digest}.csv", "taken_in": now - 1, "id_map": ""}
    return ledger.withdrawals.absorb(_batches(rows, cuts), about, now=now, limit_of=lambda times: times + LIMIT_S)


def _lift(ledger: Ledger, *grants: Grant, now: float = NOW) -> tuple[int, list[tuple[int, str]]]:
    batch = pa.RecordBatch.from_pylist([grant._asdict() for grant in grants]) if grants else None
    found = ledger.withdrawals.lift([batch] if batch else [], now)
    assert found.rows == len(grants)
    return found.lifted, found.refused


def _void(ledger: Ledger, digest: str, now: float = NOW) -> Voided:
    return ledger.withdrawals.void(digest, "a wrong file", "A", "B", now)


def _in_force(ledger: Ledger) -> dict[int, int]:
    ids, channels = ledger.withdrawals.in_force().items()
    return dict(zip(ids.tolist(), channels.tolist(), strict=True))


def _recorded(ledger: Ledger, clients: Iterable[int] = range(1, 5)) -> dict[int, int]:
    """Return what is in force by the rows themselves, which is what must be kept ready."""
    found: dict[int, int] = {}
    for client in clients:
        for row in ledger.withdrawals.of(client)["withdrawals"]:
            found[client] = found.get(client, 0) | row["in_force"]
    return {client: bits for client, bits in found.items() if bits}


def _owed(ledger: Ledger, now: float = NOW) -> dict[int, int]:
    found = ledger.obligations.owed(now)
    return dict(zip(found.client.tolist(), found.channels.tolist(), strict=True))


def _all_of(ledger: Ledger, clients: Iterable[int] = range(1, 5)) -> list[dict[str, Any]]:
    return [ledger.withdrawals.of(client) | ledger.obligations.of(client) for client in clients]


def _ids(*clients: int) -> npt.NDArray[np.int32]:
    return np.array(clients, np.int32)


def _bytes(*values: int) -> npt.NDArray[np.uint8]:
    return np.array(values, np.uint8)


def _times(*values: float) -> npt.NDArray[np.float64]:
    return np.array(values, np.float64)


def _settle(
    ledger: Ledger,
    *,
    acknowledged: Iterable[tuple[int, int, float]] = (),
    revoked: Iterable[tuple[int, int]] = (),
    refused: Iterable[tuple[int, int, bool]] = (),
    delivered: Iterable[int] = (),
    unanswered: Iterable[int] = (),
    started: float = 20.0,
) -> None:
    """Commit a leg that ended so."""
    done, owed, no = list(acknowledged), list(revoked), list(refused)
    found = Settlement(
        Acknowledged(
            _ids(*(one[0] for one in done)), _bytes(*(one[1] for one in done)), _times(*(one[2] for one in done))
        ),
        Revoked(_ids(*(one[0] for one in owed)), _bytes(*(one[1] for one in owed))),
        Refused(
            _ids(*(one[0] for one in no)), _bytes(*(one[1] for one in no)), np.array([one[2] for one in no], np.bool_)
        ),
        _ids(*delivered),
        _ids(*unanswered),
    )
    since = np.full(len(owed), started)
    with ledger._writing():
        ledger.obligations.settle(found, OwedSince(since, since + LIMIT_S), "0001-run", started=started)


# Taking lists in


@settings(max_examples=60, deadline=None)
@given(lists=LISTS)
def test_a_withdrawal_is_known_by_its_identity(lists: list[list[Row]]) -> None:
    """However often it is listed: one row, one obligation, since the earliest receipt."""
    with _fresh() as ledger:
        first: dict[tuple[int, int, float, str], float] = {}
        for number, rows in enumerate(lists):
            before = len(first)
            for row in rows:
                first[row.identity] = min(row.received_at, first.get(row.identity, np.inf))
            found = _absorb(ledger, str(number), rows)
            fresh = len(first) - before
            assert found == Absorbed(len(rows), fresh, len(rows) - fresh, 0)
        for client, said in enumerate(_all_of(ledger), 1):
            mine = {key: at for key, at in first.items() if key[0] == client}
            assert {
                (client, one["channels"], one["withdrawn_at"], one["request_ref"]): one["received_at"]
                for one in said["withdrawals"]
            } == mine
            assert sorted((one["owed"], one["started"], one["limit_at"]) for one in said["obligations"]) == sorted(
                (key[1], at, at + LIMIT_S) for key, at in mine.items()
            )


@settings(max_examples=40, deadline=None)
@given(lists=LISTS, again=st.data())
def test_a_list_that_was_taken_in_changes_nothing(lists: list[list[Row]], again: st.DataObject) -> None:
    """Any of them, whatever its rows say now; its counts are those of the first time."""
    with _fresh() as ledger:
        counts = [_absorb(ledger, str(number), rows) for number, rows in enumerate(lists)]
        before = (_all_of(ledger), _in_force(ledger), ledger.withdrawals.counts(), ledger.withdrawals.lists(9))
        number = again.draw(st.integers(0, len(lists) - 1))
        assert _absorb(ledger, str(number), again.draw(st.sampled_from(lists)), now=NOW + 5) == counts[number]
        after = (_all_of(ledger), _in_force(ledger), ledger.withdrawals.counts(), ledger.withdrawals.lists(9))
        assert after == before


@settings(max_examples=60, deadline=None)
@given(lists=LISTS, seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 5), max_size=3))
def test_the_order_of_lists_and_rows_does_not_matter(lists: list[list[Row]], seed: int, cuts: list[int]) -> None:
    """Nor how they are cut into batches: the same is in force, and owed since and until the same times."""
    seen = []
    for shuffled in (False, True):
        with _fresh() as ledger:
            chosen = [list(rows) for rows in lists]
            if shuffled:
                random.Random(seed).shuffle(chosen)
                for rows in chosen:
                    random.Random(seed).shuffle(rows)
            for number, rows in enumerate(chosen):
                _absorb(ledger, str(number), rows, cuts=cuts if shuffled else ())
            owed = ledger.obligations.owed(NOW)
            columns = [column.tolist() for column in (owed.client, owed.channels, owed.started, owed.limit_at)]
            seen.append((_in_force(ledger), columns, ledger.withdrawals.counts()["withdrawals"]))
    assert seen[0] == seen[1]


def test_a_list_is_taken_in_whole_or_not_at_all(ledger: Ledger) -> None:
    """When its second half cannot be read, nothing of the first is kept, and it can be taken in later."""

    def broken() -> Iterator[pa.RecordBatch]:
        yield from _batches([Row(1)])
        raise ValueError("damaged")

    about = {"digest": "a", "source": "a.csv", "taken_in": 1.0, "id_map": ""}
    with pytest.raises(ValueError, match="damaged"):
        ledger.withdrawals.absorb(broken(), about, now=NOW, limit_of=lambda times: times)
    assert (_in_force(ledger), _owed(ledger), ledger.withdrawals.list_state("a")) == ({}, {}, None)
    assert _absorb(ledger, "a", [Row(1)]) == Absorbed(1, 1, 0, 0)


def test_withdrawals_survive_a_reopening(ledger: Ledger) -> None:
    """They are on the disk when `absorb` returns, with their list."""
    _absorb(ledger, "a", [Row(1, SMS), Row(2**31 - 1, PUSH, basis=3, request_ref="ж")])
    with Ledger.open(ledger.path, "somewhere", write=False) as again:
        assert _in_force(again) == {1: SMS, 2**31 - 1: PUSH}
        (found,) = again.withdrawals.of(2**31 - 1)["withdrawals"]
        assert (found["basis"], found["request_ref"], found["list"]) == ("complaint", "ж", "a")
        (listed,) = again.withdrawals.lists(5)
        assert (listed["digest"], listed["source"], listed["rows"], listed["voided"]) == ("a", "a.csv", 2, None)


def test_who_is_listed_is_not_made_to_wait(ledger: Ledger) -> None:
    """A new withdrawal is sent at once, though the client's row was refused before; a repeat waits on."""
    _settle(ledger, refused=[(1, 3, False), (2, 3, False)], started=NOW)
    _absorb(ledger, "a", [Row(1)])
    assert ledger.obligations.waiting().client.tolist() == [2]
    _settle(ledger, refused=[(1, ALL, True)], started=NOW)
    _absorb(ledger, "b", [Row(1, received_at=2.0)])
    owed = ledger.obligations.owed(NOW)
    assert (owed.client.tolist(), owed.due.tolist(), owed.parked.tolist()) == ([1], [False], [True])


def test_a_repeat_owes_nothing_that_was_done(ledger: Ledger) -> None:
    """Acknowledged or closed by hand, it is not sent again; the withdrawal stands."""
    _absorb(ledger, "a", [Row(1), Row(2)])
    _settle(ledger, acknowledged=[(1, ALL, 30.0)])
    assert ledger.obligations.close(2, "no such member", "an officer", 31.0) == 1
    assert _absorb(ledger, "b", [Row(1), Row(2)]) == Absorbed(2, 0, 2, 0)
    assert (_owed(ledger), _in_force(ledger)) == ({}, {1: ALL, 2: ALL})


# Evidence


def _expected(rows: list[Row], grants: list[Grant]) -> dict[int, int]:
    """Return what stays withdrawn: each channel with a withdrawal that no later evidence, up to now, is of."""
    found: dict[int, int] = {}
    for row in rows:
        later = [one for one in grants if one.client == row.client and row.withdrawn_at < one.granted_at <= NOW]
        left = row.channels & ~int(np.bitwise_or.reduce([0, *(one.channels for one in later)]))
        found[row.client] = found.get(row.client, 0) | left
    return {client: bits for client, bits in found.items() if bits}


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(ROWS, max_size=8), grants=st.lists(GRANTS, max_size=5))
def test_evidence_lifts_by_times(rows: list[Row], grants: list[Grant]) -> None:
    """Only named channels, only what was withdrawn before, never what will have been; what is owed goes with it."""
    with _fresh() as ledger:
        if rows:
            _absorb(ledger, "a", rows)
        _lift(ledger, *grants)
        expected = _expected(rows, grants)
        assert _in_force(ledger) == _recorded(ledger) == expected
        assert _owed(ledger) == expected
        for one in (one for said in _all_of(ledger) for one in said["obligations"]):
            assert (one["owed"] == 0) == (one["ended"] == "lifted") == (one["closed"] is not None)


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(ROWS, min_size=1, max_size=5), grants=st.lists(GRANTS, max_size=4), late=st.lists(ROWS, max_size=5)
)
def test_accepted_evidence_supersedes_a_late_list(before: list[Row], grants: list[Grant], late: list[Row]) -> None:
    """A withdrawal from before an accepted re-consent is recorded, binds nothing of it, and owes nothing of it."""
    with _fresh() as ledger:
        _absorb(ledger, "a", before)
        _lift(ledger, *grants)
        accepted = [
            Grant(client, one["channels"], one["granted_at"])
            for client in range(1, 5)
            for one in ledger.withdrawals.of(client)["reconsents"]
        ]
        known = {row.identity for row in before}
        fresh = {row.identity: row for row in late if row.identity not in known}
        lifted = [row for row in fresh.values() if not _expected([row], accepted)]
        if late:
            found = _absorb(ledger, "b", late)
            assert found == Absorbed(len(late), len(fresh) - len(lifted), len(late) - len(fresh), len(lifted))
        assert _in_force(ledger) == _recorded(ledger) == _owed(ledger) == _expected([*before, *late], accepted)


@pytest.mark.parametrize(
    ("grant", "why"),
    [
        (Grant(1, SMS, NOW + 1), "in the future"),
        (Grant(1, SMS, 4.0), "not later than the withdrawal of Sms"),
        (Grant(1, SMS | EMAIL, 3.0), "not later than the withdrawal of Sms"),
        (Grant(1, EMAIL, 6.0), "nothing of these channels is withdrawn"),
        (Grant(2, SMS, 6.0), "nothing of these channels is withdrawn"),
    ],
)
def test_what_evidence_does_not_lift_is_refused_with_the_rule(ledger: Ledger, grant: Grant, why: str) -> None:
    """It is not recorded, and changes nothing."""
    _absorb(ledger, "a", [Row(1, SMS)])
    lifted, ((client, rule),) = _lift(ledger, grant)
    assert (lifted, client) == (0, grant.client)
    assert why in rule
    assert (_in_force(ledger), _owed(ledger)) == ({1: SMS}, {1: SMS})
    assert ledger.withdrawals.of(grant.client)["reconsents"] == []
    assert ledger.withdrawals.counts() == {"withdrawals": 1, "reconsents": 0}


@pytest.mark.parametrize(("withdrawn_at", "binds"), [(2.0, False), (3.0, True), (4.0, True)])
def test_a_late_withdrawal_of_the_moment_of_the_evidence_binds(
    ledger: Ledger, withdrawn_at: float, binds: bool
) -> None:
    """Only what was withdrawn before the evidence is superseded by it: in doubt the person is left alone."""
    _absorb(ledger, "a", [Row(1, SMS, withdrawn_at=1.0)])
    assert _lift(ledger, Grant(1, SMS, 3.0)) == (1, [])
    assert _absorb(ledger, "b", [Row(1, SMS, withdrawn_at=withdrawn_at)]) == Absorbed(1, binds, 0, not binds)
    assert _in_force(ledger) == _owed(ledger) == ({1: SMS} if binds else {})


def test_a_row_may_lift_some_channels_and_be_refused_for_others(ledger: Ledger) -> None:
    """Whoever sends it is told which channel stays withdrawn."""
    _absorb(ledger, "a", [Row(1, SMS, withdrawn_at=4.0), Row(1, EMAIL, withdrawn_at=9.0)])
    assert _lift(ledger, Grant(1, ALL, 6.0)) == (1, [(1, "it is not later than the withdrawal of Email")])
    assert (_in_force(ledger), _owed(ledger)) == ({1: EMAIL}, {1: EMAIL})
    assert ledger.withdrawals.counts()["reconsents"] == 1


def test_evidence_ends_nothing_that_has_another_source(ledger: Ledger) -> None:
    """What an export revoked is owed by that export, whatever withdrawals are lifted."""
    ledger.obligations.add("revocation", _ids(1), _bytes(EMAIL), _times(5.0), _times(9.0))
    _absorb(ledger, "a", [Row(1, SMS)])
    _lift(ledger, Grant(1, ALL, 6.0))
    assert (_in_force(ledger), _owed(ledger)) == ({}, {1: EMAIL})


# Void lists


def test_a_void_list_binds_no_more(ledger: Ledger) -> None:
    """What is owed for it ends; what another list says, and what was said of it, stays."""
    _absorb(ledger, "aa", [Row(1, SMS), Row(2, SMS)])
    _absorb(ledger, "ab", [Row(2, EMAIL), Row(3)])
    assert _void(ledger, "aa") == Voided(withdrawals=2, obligations=2, kept=0)
    assert _in_force(ledger) == _recorded(ledger) == _owed(ledger) == {2: EMAIL, 3: ALL}
    (withdrawal,) = ledger.withdrawals.of(1)["withdrawals"]
    assert (withdrawal["voided"], withdrawal["in_force"]) == (NOW, 0)
    (obligation,) = ledger.obligations.of(1)["obligations"]
    assert (obligation["ended"], obligation["reason"], obligation["by"]) == ("void", "a wrong file", "A")
    assert ledger.withdrawals.counts()["withdrawals"] == 4


def test_what_another_list_repeats_is_kept(ledger: Ledger) -> None:
    """With what is owed for it; it then belongs to that list, and goes with that one."""
    _absorb(ledger, "a", [Row(1), Row(2)])
    _absorb(ledger, "b", [Row(1)])
    assert _void(ledger, "a") == Voided(withdrawals=1, obligations=1, kept=1)
    assert _in_force(ledger) == _owed(ledger) == {1: ALL}
    found = ledger.withdrawals.list_state("b")
    assert found is not None
    assert found["open"] == 1
    assert _void(ledger, "b") == Voided(withdrawals=1, obligations=1, kept=0)
    assert _in_force(ledger) == _owed(ledger) == {}


def test_a_void_repeat_takes_nothing_from_the_first_list(ledger: Ledger) -> None:
    """The list that came first still stands."""
    _absorb(ledger, "a", [Row(1)])
    _absorb(ledger, "b", [Row(1)])
    assert _void(ledger, "b") == Voided(withdrawals=0, obligations=0, kept=0)
    assert _in_force(ledger) == _owed(ledger) == {1: ALL}
    assert _void(ledger, "a").kept == 0
    assert _in_force(ledger) == {}


def test_what_a_void_list_said_is_new_from_another(ledger: Ledger) -> None:
    """It is owed again, from the receipt that the other list says."""
    _absorb(ledger, "a", [Row(1, received_at=5.0)])
    _void(ledger, "a")
    assert _absorb(ledger, "b", [Row(1, received_at=8.0)]) == Absorbed(1, 1, 0, 0)
    assert _in_force(ledger) == _recorded(ledger) == {1: ALL}
    assert ledger.obligations.owed(NOW).started.tolist() == [8.0]


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_of_three_lists_that_say_the_same_the_last_keeps_it(ledger: Ledger, order: tuple[str, ...]) -> None:
    """Whichever of them are void, and in whatever order: as long as one stands, the withdrawal does."""
    for digest in "abc":
        _absorb(ledger, digest, [Row(1)])
    for digest in order[:2]:
        _void(ledger, digest)
        assert _in_force(ledger) == _owed(ledger) == {1: ALL}
    _void(ledger, order[2])
    assert _in_force(ledger) == _owed(ledger) == {}


def test_a_void_list_that_comes_in_again_binds_again(ledger: Ledger) -> None:
    """Whoever takes it in means it; the record of the void one stays."""
    _absorb(ledger, "a", [Row(1)])
    _void(ledger, "a")
    assert _absorb(ledger, "a", [Row(1)]).fresh == 1
    assert _in_force(ledger) == _owed(ledger) == {1: ALL}
    assert [one["voided"] for one in ledger.withdrawals.lists(5)] == [None, NOW]


def test_what_was_lifted_stays_lifted_when_its_list_is_void(ledger: Ledger) -> None:
    """Keeping a withdrawal for another list does not bind again what evidence lifted."""
    _absorb(ledger, "a", [Row(1)])
    _absorb(ledger, "b", [Row(1)])
    _lift(ledger, Grant(1, SMS, 6.0))
    assert _void(ledger, "a").kept == 1
    assert _in_force(ledger) == _owed(ledger) == {1: ALL & ~SMS}


@pytest.mark.parametrize(
    ("digest", "by", "approved_by", "why"),
    [
        ("x", "A", "B", "no lists begin with 'x'"),
        ("", "A", "B", "lists begin with ''"),
        ("a", "A", "B", "2 lists begin with 'a'"),
        ("%", "A", "B", "no lists"),
        ("ab", "A", "a", "two people"),
        ("ab", "A", "", "two people"),
        ("ab", "", "B", "two people"),
        ("void", "A", "B", "void already"),
    ],
)
def test_a_list_is_void_only_by_two_people_and_its_own_digest(
    ledger: Ledger, digest: str, by: str, approved_by: str, why: str
) -> None:
    """Otherwise nothing is changed."""
    for name in ("aa", "ab", "void"):
        _absorb(ledger, name, [Row(1, request_ref=name)])
    _void(ledger, "void")
    before = _all_of(ledger)
    with pytest.raises(ValueError, match=why):
        ledger.withdrawals.void(digest, "why", by, approved_by, NOW)
    assert _all_of(ledger) == before


OPERATIONS = st.one_of(
    st.tuples(st.just("absorb"), st.lists(ROWS, min_size=1, max_size=4)),
    st.tuples(st.just("lift"), st.lists(GRANTS, min_size=1, max_size=2)),
    st.tuples(st.just("void"), st.integers(0, 5)),
    st.tuples(st.just("forget"), st.integers(1, 3)),
    st.tuples(st.just("settle"), st.tuples(st.integers(1, 3), st.sampled_from((SMS, ALL)), st.just(30.0))),
)


@settings(max_examples=80, deadline=None)
@given(operations=st.lists(OPERATIONS, max_size=8))
def test_what_is_kept_ready_is_what_the_rows_say(operations: list[tuple[str, Any]]) -> None:
    """After anything in any order; no withdrawal is owed that is not in force; counts never grow smaller."""
    with _fresh() as ledger:
        lists = 0
        counts = {"withdrawals": 0, "reconsents": 0}
        void: set[int] = set()
        for kind, what in operations:
            if kind == "absorb":
                _absorb(ledger, f"{lists} ", what)
                lists += 1
            elif kind == "lift":
                _lift(ledger, *what)
            elif kind == "void" and what < lists and what not in void:
                _void(ledger, str(what))
                void.add(what)
            elif kind == "forget":
                with ledger._writing():
                    ledger.withdrawals.forget(_ids(what))
                    ledger.obligations.forget(_ids(what))
            elif kind == "settle":
                _settle(ledger, acknowledged=[what])
            recorded = _recorded(ledger)
            assert _in_force(ledger) == recorded
            for client, bits in _owed(ledger).items():
                assert bits & ~recorded.get(client, 0) == 0
            now = ledger.withdrawals.counts()
            assert all(now[name] >= counts[name] for name in counts)
            counts = now
            for one in (one for said in _all_of(ledger) for one in said["obligations"]):
                assert (one["owed"] == 0) == (one["closed"] is not None) == (one["ended"] is not None)
                assert (one["ended"] == "acknowledged") == (one["acknowledged"] is not None)


# Looking at it


def test_the_state_of_a_list(ledger: Ledger) -> None:
    """Open, acknowledged, refused and parked add up to what it brought; one in the inbox has none yet."""
    assert ledger.withdrawals.list_state("a") is None
    _absorb(ledger, "a", [Row(client) for client in range(1, 6)] + [Row(1)])
    _settle(ledger, acknowledged=[(1, ALL, 30.0)], refused=[(2, ALL, False), (3, ALL, True)])
    assert ledger.withdrawals.list_state("a") == {
        "rows": 6,
        "fresh": 5,
        "repeats": 1,
        "superseded": 0,
        "erased": 0,
        "acknowledged": 1,
        "open": 2,
        "refused": 1,
        "parked": 1,
        "elsewhere": 0,
        "ended_otherwise": {"twice": 1},
    }


def test_the_lists_taken_in_last_come_first(ledger: Ledger) -> None:
    """No more of them than asked for."""
    for digest in "abc":
        _absorb(ledger, digest, [Row(1)])
    assert [one["digest"] for one in ledger.withdrawals.lists(2)] == ["c", "b"]


def test_every_withdrawal_is_exported(ledger: Ledger) -> None:
    """Also what is void or lifted, in the words that a list has; however small the pieces are."""
    _absorb(ledger, "a", [Row(2, SMS | EMAIL, 5.5, 4.0, 1, "r"), Row(1, ALL)])
    _absorb(ledger, "b", [Row(3, SMS)])
    _lift(ledger, Grant(2, SMS, 6.0))
    _void(ledger, "b")
    for size in (1, 2, 9):
        rows = [row for batch in ledger.withdrawals.export_rows(size) for row in batch.to_pylist()]
        assert [(row["Client"], row["scope"], row["in_force"], row["list"]) for row in rows] == [
            (1, "Sms Email Push EmailOnlineCheque", "Sms Email Push EmailOnlineCheque", "a"),
            (2, "Sms Email", "Email", "a"),
            (3, "Sms", "", "b"),
        ]
    assert (rows[1]["basis"], rows[1]["request_ref"]) == ("objection", "r")
    assert (rows[1]["received_at"].timestamp(), rows[1]["withdrawn_at"].timestamp()) == (5.5, 4.0)


def test_nothing_is_left_of_the_forgotten(ledger: Ledger) -> None:
    """Of them alone, in every table; the caller's transaction decides."""
    for client in (1, 2):
        _absorb(ledger, str(client), [Row(client)])
        _lift(ledger, Grant(client, SMS, 6.0))
    _settle(ledger, refused=[(1, ALL, True), (2, ALL, True)])
    with ledger._writing():
        ledger.withdrawals.forget(_ids(1, 7))
        ledger.obligations.forget(_ids(1, 7))
    nothing: dict[str, Any] = {"withdrawals": [], "reconsents": [], "obligations": [], "waiting": None}
    assert _all_of(ledger, [1]) == [nothing]
    assert _in_force(ledger) == _owed(ledger) == {2: ALL & ~SMS}
    assert ledger.withdrawals.clients().tolist() == [2]


def test_when_the_newest_withdrawal_was_received(ledger: Ledger) -> None:
    """By the receipt, whenever the list was taken in; 0 for those whom no list names."""
    _absorb(ledger, "a", [Row(1, received_at=9.0), Row(2, received_at=6.0)], now=10.0)
    _absorb(ledger, "b", [Row(1, received_at=7.0, request_ref="again")], now=20.0)
    assert ledger.withdrawals.received_at(_ids(1, 2, 3)).tolist() == [9.0, 6.0, 0.0]


# Obligations and waiting rows


def test_an_obligation_ends_with_its_last_channel(ledger: Ledger) -> None:
    """A delivered row closes only the channels that it denied; the time is that of the last one."""
    _absorb(ledger, "a", [Row(1), Row(1, SMS), Row(2)])
    _settle(ledger, acknowledged=[(1, SMS, 30.0)])
    assert _owed(ledger) == {1: ALL & ~SMS, 2: ALL}
    _settle(ledger, acknowledged=[(1, ALL, 40.0), (3, ALL, 40.0)])
    found = {one["channels"]: one for one in ledger.obligations.of(1)["obligations"]}
    assert [found[bits]["acknowledged"] for bits in (SMS, ALL)] == [30.0, 40.0]
    assert {one["ended"] for one in found.values()} == {"acknowledged"}
    assert _owed(ledger) == {2: ALL}


def test_a_revocation_is_owed_for_what_nothing_else_covers(ledger: Ledger) -> None:
    """Once, from its run's start; what a withdrawal covers as well is not the export's to take back."""
    _absorb(ledger, "a", [Row(1, SMS)])
    for _ in range(2):
        _settle(ledger, revoked=[(1, SMS | EMAIL), (2, PUSH)])
    owed = ledger.obligations.owed(NOW)
    assert owed.client.tolist() == [1, 2]
    assert (owed.channels.tolist(), owed.revoked.tolist()) == ([SMS | EMAIL, PUSH], [EMAIL, PUSH])
    assert (owed.started.tolist(), owed.limit_at.tolist()) == ([5.0, 20.0], [105.0, 120.0])
    (one,) = ledger.obligations.of(2)["obligations"]
    assert (one["source"], one["run"]) == ("revocation", "0001-run")


def test_a_revocation_that_a_withdrawal_follows_is_no_longer_the_exports(ledger: Ledger) -> None:
    """A fresh export may take back what it revoked, but not what the person withdrew since."""
    _settle(ledger, revoked=[(1, SMS | EMAIL)])
    _absorb(ledger, "a", [Row(1, SMS)])
    owed = ledger.obligations.owed(NOW)
    assert (owed.channels.tolist(), owed.revoked.tolist()) == ([SMS | EMAIL], [EMAIL])
    ledger.obligations.overtake(_ids(1), _bytes(SMS | EMAIL), 50.0)
    assert _owed(ledger) == {1: SMS}


def test_only_a_revocation_is_overtaken(ledger: Ledger) -> None:
    """A fresh export that allows again ends what an export began, channel by channel, and no withdrawal."""
    _absorb(ledger, "a", [Row(1, SMS)])
    _settle(ledger, revoked=[(1, EMAIL | PUSH), (2, SMS)])
    ledger.obligations.overtake(_ids(1, 2), _bytes(SMS | EMAIL, SMS), 50.0)
    assert _owed(ledger) == {1: SMS | PUSH}
    (one,) = ledger.obligations.of(2)["obligations"]
    assert (one["ended"], one["closed"], one["acknowledged"]) == ("overtaken", 50.0, None)


def test_closing_by_hand_ends_what_is_owed_and_keeps_the_withdrawal(ledger: Ledger) -> None:
    """With who and why; once."""
    _absorb(ledger, "a", [Row(1), Row(1, SMS)])
    assert ledger.obligations.close(1, "no such member", "an officer", 50.0) == 2
    assert ledger.obligations.close(1, "again", "an officer", 51.0) == 0
    assert (_owed(ledger), _in_force(ledger)) == ({}, {1: ALL})
    assert {(one["ended"], one["reason"]) for one in ledger.obligations.of(1)["obligations"]} == {
        ("by hand", "no such member")
    }


def test_adding_owes_what_is_not_owed_yet(ledger: Ledger) -> None:
    """As `compare` and an erasure do; whoever is named does not wait."""
    _absorb(ledger, "a", [Row(1, SMS)])
    _settle(ledger, refused=[(1, ALL, False), (2, ALL, False)], started=NOW)
    many = _ids(1, 2), _bytes(SMS, ALL), _times(5.0, 5.0), _times(9.0, 9.0)
    assert ledger.obligations.add("compare", *many) == 1
    assert ledger.obligations.add("compare", *many) == 0
    assert _owed(ledger) == {1: SMS, 2: ALL}
    assert ledger.obligations.waiting().client.tolist() == []


@pytest.mark.parametrize(
    ("owes", "not_found", "days"),
    [
        (True, True, (1, 7, 30, 30)),
        (True, False, (1, 1, 1, 1)),
        (False, False, (1, 2, 4, 7, 7)),
        (False, True, (1, 2, 4, 7, 7)),
    ],
)
def test_a_refused_row_waits_longer_each_time(
    ledger: Ledger, owes: bool, not_found: bool, days: tuple[int, ...]
) -> None:
    """Less an hour, so that a night that begins earlier is no night late; what is owed is tried daily."""
    if owes:
        _absorb(ledger, "a", [Row(1)])
    for tries, expected in enumerate(days, 1):
        _settle(ledger, refused=[(1, ALL, not_found)], started=NOW)
        waits = ledger.obligations.of(1)["waiting"]
        assert (waits["tries"], waits["next_at"]) == (tries, NOW + expected * DAY - 3600)
        assert waits["not_found"] == (owes and not_found), "parked is what is owed"
    _settle(ledger, refused=[(1, SMS, not_found)], started=NOW)
    assert ledger.obligations.of(1)["waiting"]["tries"] == 1, "another statement is another try"
    _settle(ledger, delivered=[1])
    assert ledger.obligations.of(1)["waiting"] is None


def test_what_waits_is_due_when_its_time_has_come(ledger: Ledger) -> None:
    """Not a moment earlier."""
    _absorb(ledger, "a", [Row(1)])
    assert ledger.obligations.owed(0.0).due.tolist() == [True]
    _settle(ledger, refused=[(1, ALL, False)], started=NOW)
    next_at = NOW + DAY - 3600
    assert ledger.obligations.owed(next_at - 1).due.tolist() == [False]
    assert ledger.obligations.owed(next_at).due.tolist() == [True]


def test_the_status_counts_clients(ledger: Ledger) -> None:
    """By age and source; who is parked is counted apart, and is no alarm."""
    hour = 3600.0
    ages = {1: 0.5, 2: 3.0, 3: 30.0, 4: 100.0, 5: 100.0}
    _absorb(ledger, "a", [Row(client, received_at=500 * hour - age * hour) for client, age in ages.items()])
    _settle(ledger, refused=[(5, ALL, True)], started=500 * hour)
    found = ledger.obligations.status(500 * hour, 24 * hour)
    assert (found["open"], found["parked"], found["past_target"], found["past_limit"]) == (4, 1, 2, 4)
    assert [(one["upto_h"], one["open"]) for one in found["ages"]] == [
        *((1, 1), (6, 1), (24, 0), (48, 1), (72, 0), (None, 1))
    ]
    assert ", ".join(withdrawals_text.ages(found["ages"])) == "1 under 1 h, 1 1 to 6 h, 1 24 to 48 h, 1 over 72 h"
    assert found["last_acknowledged"] is None
    assert found["by_source"] == {"withdrawal": 5}
    assert found["oldest_started"] == 400 * hour
    listed = ledger.obligations.open_list(10)
    assert [(one["client"], one["parked"]) for one in listed] == [(4, 0), (3, 0), (2, 0), (1, 0), (5, 1)]
    assert len(ledger.obligations.open_list(2)) == 2


def test_the_status_of_nothing(ledger: Ledger) -> None:
    """Nothing owed is no error."""
    found = ledger.obligations.status(NOW, 1.0)
    assert (found["open"], found["oldest_started"], found["by_source"]) == (0, None, {})
    assert len(ledger.obligations.owed(NOW).client) == len(ledger.obligations.waiting().client) == 0
    assert ledger.withdrawals.in_force().clients() == 0


def test_the_report_of_a_time(ledger: Ledger) -> None:
    """Of what was received: acknowledged and after how long, late, open, and ended otherwise; its end is not in it."""
    _absorb(ledger, "a", [Row(client, received_at=10.0) for client in range(1, 7)])
    _settle(ledger, acknowledged=[(1, ALL, 20.0), (2, ALL, 40.0), (3, ALL, 211.0)])
    ledger.obligations.close(4, "gone", "an officer", 50.0)
    found = ledger.withdrawals.report(10.0, 212.0)
    assert (found["received"], found["acknowledged"], found["late"], found["open"]) == (6, 3, 1, 2)
    assert found["after_s"] == {"median": 30.0, "p95": 183.9, "longest": 201.0}
    assert found["ended_otherwise"] == {"by hand": 1}
    assert ledger.withdrawals.report(0.0, 10.0)["received"] == 0
    assert ledger.withdrawals.report(11.0, 211.0)["acknowledged"] == 0
    assert ledger.withdrawals.report(0.0, 5.0)["after_s"]["median"] is None


def test_how_long_many_withdrawals_take(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, never judged: a busy machine is no bug. The counts are."""
    many, took = 20_000, {}

    def timed(name: str, began: float) -> None:
        took[name] = round(time.perf_counter() - began, 2)

    rows = pa.table(
        {
            "client": pa.array(np.arange(1, many + 1), pa.int32()),
            "given": pa.array(np.zeros(many), pa.int32()),
            "channels": pa.array(np.full(many, ALL), pa.uint8()),
            "received_at": np.full(many, 5.0),
            "withdrawn_at": np.full(many, 4.0),
            "basis": pa.array(np.zeros(many), pa.uint8()),
            "request_ref": pa.repeat("", many),
        }
    ).to_batches(1 << 13)
    for name in ("fresh", "repeated"):
        about = {"digest": name, "source": "x", "taken_in": 1.0, "id_map": ""}
        began = time.perf_counter()
        found = ledger.withdrawals.absorb(rows, about, now=NOW, limit_of=lambda times: times + LIMIT_S)
        timed(name, began)
        assert found.fresh == (many if name == "fresh" else 0)
    began = time.perf_counter()
    assert ledger.withdrawals.in_force().clients() == many
    timed("in force", began)
    began = time.perf_counter()
    assert len(ledger.obligations.owed(NOW).client) == many
    timed("owed", began)
    with capsys.disabled():
        sys.stdout.write(f"\n{many:,} withdrawals, in seconds: {took}\n")
