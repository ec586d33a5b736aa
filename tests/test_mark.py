"""What a backfill marks, as properties over random clients."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent.backfill import Again, left, mark, marked, taken_back
from sync_job.consent.channels import LOW_BITS, NOBODY, Bytes, Ids, allowed, denied, pack, spread, stated
from sync_job.consent.diff import Terms, diff
from sync_job.consent.known import Holdings, Known
from sync_job.consent.rows import Rows, sampled
from sync_job.consent.tables import Table, tabulate

BYTES = st.builds(pack, st.tuples(*[st.integers(0, 2)] * 4))
SAYS = st.builds(pack, st.tuples(*[st.integers(1, 3)] * 4)) | st.just(0)
LOW = st.integers(0, 255).map(lambda byte: byte & int(LOW_BITS))
CLIENTS = st.dictionaries(st.integers(1, 40), st.tuples(SAYS, BYTES, BYTES, LOW), max_size=12)
AGAIN = st.builds(Again, LOW, st.booleans())
World = dict[int, tuple[int, int, int, int]]


def _table(world: World, place: int) -> Table:
    ids = np.array([client for client in sorted(world) if world[client][place]], np.int32)
    return tabulate(ids, ids, np.array([world[client][place] for client in ids.tolist()], np.uint8))


def _holdings(world: World) -> Holdings:
    ids = [client for client in sorted(world) if world[client][1] or world[client][2]]
    state, due = (np.array([world[client][place] for client in ids], np.uint8) for place in (1, 2))
    return Holdings(np.array(ids, np.int32), state, due)


def _same(one: Holdings, other: Holdings) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("client", "state", "due"))


@settings(max_examples=200)
@given(world=CLIENTS, again=AGAIN, ungranted=st.sets(st.integers(1, 40), max_size=3))
def test_a_mark_repeats_and_changes_nothing(world: World, again: Again, ungranted: set[int]) -> None:
    """No grant of who withdrew, is denied, or may not be granted; no denial of who is allowed; nothing that is due."""
    holdings = _holdings(world)
    known = Known(holdings, withdrawn=_table(world, 3))
    barred: Ids = np.array(sorted(ungranted), np.int32)
    what = mark(_table(world, 0), known, barred, again)
    rows = [world[client] for client in what.client.tolist()]
    says, was, due, withdrawn = (np.array([row[place] for row in rows], np.uint8) for place in range(4))
    assert np.array_equal(what.state, was)
    assert not (what.made & spread(stated(due))).any()
    assert not (stated(what.made) & ~np.uint8(again.channels)).any()
    grants, denials = allowed(what.made), denied(what.made)
    assert not (grants & (withdrawn | ~allowed(was) | ~allowed(says))).any()
    assert not (denials & (allowed(was) | ~(denied(says) | withdrawn))).any()
    assert not grants[np.isin(what.client, barred)].any()
    assert again.grants or not grants.any()
    after = marked(holdings, what)
    new = denied(what.made) & ~stated(was)
    back = taken_back(after, what, NOBODY)
    assert np.array_equal(back.of(what.client)[1] & ~new, due & ~new), "what was due before"
    assert not (new & ~denied(back.of(what.client)[1])).any(), "a denial that was never told stays due"
    assert new.any() or _same(back, holdings)
    assert _same(taken_back(after, what, what.client), after), "what is in doubt stays due"
    assert np.array_equal(left(what, after), stated(what.made))
    assert not left(what, holdings).any(), "acknowledged: due no more"


@settings(max_examples=100)
@given(world=CLIENTS, again=AGAIN)
def test_what_is_marked_is_sent_and_ends_by_being_acknowledged(world: World, again: Again) -> None:
    """Every marked channel goes with the next plan as marked; once State holds it and nothing is due, none is left."""
    known = Known(_holdings(world), withdrawn=_table(world, 3))
    statements = _table(world, 0)
    what = mark(statements, known, NOBODY, again)
    after = marked(known.holdings, what)
    rows = diff(statements, Known(after, withdrawn=known.withdrawn), Terms(), 0.0).rows
    told = dict(zip(rows.client.tolist(), rows.sent.tolist(), strict=True))
    sent = np.array([told[client] for client in what.client.tolist()], np.uint8)
    assert np.array_equal(sent & spread(stated(what.made)), what.made)
    acknowledged = after.replaced(Holdings(what.client, after.of(what.client)[0], np.zeros(len(what.client), np.uint8)))
    assert not left(what, acknowledged).any()


@settings(max_examples=100)
@given(kinds=st.lists(st.integers(0, 3), max_size=40), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_sample_has_some_of_every_kind(kinds: list[int], count: int, seed: int) -> None:
    """So many of each, or all where there are fewer, in the order they had; then the rest, in theirs."""
    sent: Bytes = np.array([kind + 1 for kind in kinds], np.uint8)
    zeros = np.zeros(len(kinds), np.uint8)
    rows = Rows(np.arange(len(kinds), dtype=np.int32), zeros, zeros, sent, zeros)
    found, size = sampled(rows, count, np.random.default_rng(seed))
    assert sorted(found.client.tolist()) == list(range(len(kinds)))
    first, rest = found.client[:size].tolist(), found.client[size:].tolist()
    assert first == sorted(first)
    assert rest == sorted(rest)
    for kind in set(kinds):
        assert sum(kinds[place] == kind for place in first) == min(count, kinds.count(kind))
