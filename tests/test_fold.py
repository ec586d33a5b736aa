from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent.channels import ALLOWED, DENIED, LAST_ID, NOTHING, Bytes, Ids, pack, parse_letters, unpack
from sync_job.consent.fold import (
    DOUBT_DENIALS,
    DOUBT_WHOLE,
    Channel,
    Ending,
    Endings,
    Folded,
    Outcome,
    fold,
    fold_rows,
    settle,
)
from sync_job.consent.known import Holdings, Lingering, no_lingering
from sync_job.consent.rows import Rows

STARTED, NOW, LINGER_S = 1_000.0, 1_100.0, 120.0

# The fold table, case by case: State and Due after, for each State and Due before in the order of PAIRS.
PAIRS = [state + due for state in "-FT" for due in "-FT"]
SAME = "-- -F -T  F- FF FT  T- TF TT"
CASES = {
    # sent, how it ended, lingers: -- -F -T  F- FF FT  T- TF TT
    ("F", Ending.DELIVERED, False): "F- F- F-  F- F- F-  F- F- F-",
    ("F", Ending.DELIVERED, True): "FF FF FF  FF FF FF  FF FF FF",
    ("F", Ending.NOT_APPLIED, False): "-F -F -F  F- FF FF  TF TF TF",
    ("F", Ending.NOT_APPLIED, True): "-F -F -F  F- FF FF  TF TF TF",
    ("F", Ending.IN_DOUBT, False): "-F -F -F  F- FF FF  TF TF TF",
    ("F", Ending.IN_DOUBT, True): "-F -F -F  FF FF FF  TF TF TF",
    ("T", Ending.DELIVERED, False): "T- T- T-  T- T- T-  T- T- T-",
    ("T", Ending.DELIVERED, True): "TT TT TT  TT TT TT  TT TT TT",
    ("T", Ending.NOT_APPLIED, False): SAME,
    ("T", Ending.NOT_APPLIED, True): SAME,
    ("T", Ending.IN_DOUBT, False): "-T -T -T  FT FT FT  T- TT TT",
    ("T", Ending.IN_DOUBT, True): "-T -T -T  FT FT FT  TT TT TT",
    ("-", Ending.DELIVERED, False): SAME,
    ("-", Ending.DELIVERED, True): SAME,
    ("-", Ending.NOT_APPLIED, False): SAME,
    ("-", Ending.NOT_APPLIED, True): SAME,
    ("-", Ending.IN_DOUBT, False): SAME,
    ("-", Ending.IN_DOUBT, True): SAME,
}
VALUES = {"-": NOTHING, "F": DENIED, "T": ALLOWED}
TABLE = {
    (VALUES[before[0]], VALUES[before[1]], VALUES[sent], ending, lingers): Channel(VALUES[after[0]], VALUES[after[1]])
    for (sent, ending, lingers), row in CASES.items()
    for before, after in zip(PAIRS, row.split(), strict=True)
}


class Ended(NamedTuple):
    """A planned row of one client and how it ended; *doubt_at* counts from when the leg was planned."""

    state: int
    due: int
    sent: int
    outcome: Outcome = Outcome.DELIVERED
    denials: Outcome = Outcome.OPEN
    doubt: int = 0
    doubt_at: float = 0.0


class Lingers(NamedTuple):
    """Until when a client lingers, from when the leg was planned, and whether it was acknowledged since."""

    until: float
    acknowledged: bool


def _ids(ids: list[int]) -> Ids:
    return np.array(ids, np.int32)


def _bytes(values: list[int]) -> Bytes:
    return np.array(values, np.uint8)


def _rows(ended: dict[int, Ended]) -> tuple[Rows, Endings]:
    """Return rows and endings in the order of the dictionary."""
    rows = list(ended.values())
    return (
        Rows(
            _ids(list(ended)),
            _bytes([row.state for row in rows]),
            _bytes([row.due for row in rows]),
            _bytes([row.sent for row in rows]),
            _bytes([0] * len(rows)),
        ),
        Endings(
            _bytes([row.outcome for row in rows]),
            _bytes([row.denials for row in rows]),
            _bytes([row.doubt for row in rows]),
            np.array([STARTED + row.doubt_at if row.doubt else 0.0 for row in rows], np.float64),
        ),
    )


def _holdings(held: dict[int, tuple[int, int]]) -> Holdings:
    ids = sorted(held)
    return Holdings(_ids(ids), _bytes([held[i][0] for i in ids]), _bytes([held[i][1] for i in ids]))


def _lingering(lingers: dict[int, Lingers]) -> Lingering:
    ids = sorted(lingers)
    return Lingering(
        _ids(ids),
        np.array([STARTED + lingers[i].until for i in ids], np.float64),
        np.array([lingers[i].acknowledged for i in ids], np.bool_),
    )


def _fold(held: dict[int, tuple[int, int]], lingers: dict[int, Lingers], ended: dict[int, Ended]) -> Folded:
    """Fold rows planned with what was held of their clients."""
    everyone = held | {client: (row.state, row.due) for client, row in ended.items() if row.state or row.due}
    rows, endings = _rows(ended)
    return fold(_holdings(everyone), _lingering(lingers), rows, endings, started=STARTED, now=NOW, linger_s=LINGER_S)


def _held(holdings: Holdings) -> dict[int, tuple[int, int]]:
    assert np.all(holdings.client[1:] > holdings.client[:-1])
    pairs = zip(holdings.state.tolist(), holdings.due.tolist(), strict=True)
    return dict(zip(holdings.client.tolist(), pairs, strict=True))


def _who(lingering: Lingering) -> dict[int, Lingers]:
    assert np.all(lingering.client[1:] > lingering.client[:-1])
    pairs = zip((lingering.until - STARTED).tolist(), lingering.acknowledged.tolist(), strict=True)
    return {client: Lingers(*pair) for client, pair in zip(lingering.client.tolist(), pairs, strict=True)}


def _ending(row: Ended, sent: int) -> Ending:
    """Return how one channel of a row ended, from the requests that carried it."""
    if sent == ALLOWED or row.denials == Outcome.OPEN:
        last, in_doubt = row.outcome, bool(row.doubt & DOUBT_WHOLE)
    else:
        last, in_doubt = row.denials, row.doubt != 0
    if last == Outcome.DELIVERED:
        return Ending.DELIVERED
    return Ending.IN_DOUBT if in_doubt else Ending.NOT_APPLIED


def _one_by_one(
    held: dict[int, tuple[int, int]], lingers: dict[int, Lingers], ended: dict[int, Ended]
) -> tuple[dict[int, tuple[int, int]], dict[int, Lingers]]:
    """Return holdings and lingering after the rows, one client and channel at a time."""
    after, who = dict(held), {client: who for client, who in lingers.items() if STARTED + who.until > NOW}
    for client, row in ended.items():
        before = lingers.get(client)
        lingered = before is not None and before.until > 0
        channels = []
        for state, due, sent in zip(unpack(row.state), unpack(row.due), unpack(row.sent), strict=True):
            ending = _ending(row, sent)
            late = lingered or (ending == Ending.DELIVERED and row.doubt != 0)
            channels.append(TABLE[state, due, sent, ending, late])
        after[client] = pack([channel.state for channel in channels]), pack([channel.due for channel in channels])
        until = max(row.doubt_at + LINGER_S if row.doubt else 0.0, before.until if before else 0.0)
        who.pop(client, None)
        if STARTED + until > NOW:
            who[client] = Lingers(until, row.outcome == Outcome.DELIVERED)
    return {client: pair for client, pair in after.items() if any(pair)}, who


def test_every_case_is_in_the_table() -> None:
    """The table has all 162 cases of one channel: State, Due, sent, how it ended, lingers."""
    assert set(TABLE) == set(product(range(3), range(3), range(3), Ending, (False, True)))


@pytest.mark.parametrize(("sent", "ending", "lingers"), CASES)
def test_each_case_settles_as_the_table_says(sent: str, ending: Ending, lingers: bool) -> None:
    """State and Due of a channel after its row ended are those of the table."""
    for state, due in product(range(3), range(3)):
        expected = TABLE[state, due, VALUES[sent], ending, lingers]
        assert settle(state, due, VALUES[sent], ending, lingers=lingers) == expected, (state, due)


REPEATED = [(Outcome.REFUSED, denials, doubt) for denials in (*Outcome,)[1:] for doubt in range(4)]
ENDINGS = [(outcome, Outcome.OPEN, doubt) for outcome in Outcome for doubt in (0, DOUBT_WHOLE)] + REPEATED


@pytest.mark.parametrize("lingers", [False, True])
@pytest.mark.parametrize(("outcome", "denials", "doubt"), ENDINGS)
def test_every_channel_of_a_row_settles_by_itself(
    outcome: Outcome, denials: Outcome, doubt: int, lingers: bool
) -> None:
    """Each case in each channel of a byte settles as it does alone, whatever the other channels are."""
    random = np.random.default_rng(5)
    cases = list(product(range(3), range(3), range(3)))
    ended = {}
    for client in range(1, 200):
        drawn = [cases[place] for place in random.integers(0, len(cases), 4)]
        state, due, sent = (pack([case[part] for case in drawn]) for part in range(3))
        if denials == Outcome.OPEN or {DENIED, ALLOWED} <= set(unpack(sent)):
            ended[client] = Ended(state, due, sent, outcome, denials, doubt)
    assert len(ended) > 50
    rows, endings = _rows(ended)
    after = fold_rows(rows, endings, np.full(len(rows), lingers))
    lingering = {client: Lingers(NOW - STARTED + 5, acknowledged=False) for client in ended} if lingers else {}
    expected = _one_by_one({}, lingering, ended)[0]
    pairs = zip(*(part.tolist() for part in after), strict=True)
    assert list(pairs) == [expected.get(client, (0, 0)) for client in ended]


BYTES = st.sampled_from([pack(values) for values in product((NOTHING, DENIED, ALLOWED), repeat=4)])
IDS = st.integers(1, 12) | st.sampled_from([1 << 20, LAST_ID - 1, LAST_ID])
TIMES = st.sampled_from([-20.0, 0.0, 1.0, 50.0, 99.0, 100.0, 101.0, 150.0])


@st.composite
def _ended_rows(draw: st.DrawFn) -> Ended:
    state, due, sent = draw(BYTES), draw(BYTES), draw(BYTES.filter(bool))
    doubt_at = draw(st.sampled_from([0.0, 10.0, 99.0]) | st.just(-30.0))
    outcome, doubt = draw(st.sampled_from(Outcome)), draw(st.sampled_from([0, DOUBT_WHOLE]))
    denials = Outcome.OPEN
    if outcome == Outcome.REFUSED and {DENIED, ALLOWED} <= set(unpack(sent)):
        denials = draw(st.sampled_from(Outcome))
        doubt |= draw(st.sampled_from([0, DOUBT_DENIALS])) if denials != Outcome.OPEN else 0
    return Ended(state, due, sent, outcome, denials, doubt, doubt_at)


HELD = st.dictionaries(IDS, st.tuples(BYTES, BYTES).filter(any), max_size=6)
LINGERS = st.dictionaries(IDS, st.builds(Lingers, TIMES, st.booleans()), max_size=8)
ENDED = st.dictionaries(IDS, _ended_rows(), max_size=8)


@settings(max_examples=150, deadline=None)
@given(held=HELD, lingers=LINGERS, ended=ENDED)
def test_a_fold_settles_each_client_by_itself(
    held: dict[int, tuple[int, int]], lingers: dict[int, Lingers], ended: dict[int, Ended]
) -> None:
    """Holdings and lingering are those that looking at one row after the other gives, whatever the rows' order."""
    others = {client: pair for client, pair in held.items() if client not in ended}
    expected_held, expected_who = _one_by_one(others, lingers, ended)
    after = _fold(others, lingers, ended)
    assert _held(after.holdings) == expected_held
    assert _who(after.lingering) == expected_who


def test_clients_with_nothing_left_leave_the_holdings() -> None:
    """A new client whose grant was surely not applied is as unknown as before."""
    after = _fold({5: (1, 0)}, {}, {7: Ended(0, 0, ALLOWED, Outcome.REFUSED)})
    assert _held(after.holdings) == {5: (1, 0)}


def test_nothing_planned_changes_nothing() -> None:
    """Without rows the holdings are the same, and only lingers that are over end."""
    held = {3: (1, 2), 9: (2, 0)}
    after = _fold(held, {3: Lingers(500.0, acknowledged=True), 9: Lingers(50.0, acknowledged=False)}, {})
    assert _held(after.holdings) == held
    assert _who(after.lingering) == {3: Lingers(500.0, acknowledged=True)}
    assert len(fold(_holdings({}), no_lingering(), *_rows({}), started=0.0, now=0.0, linger_s=1.0).holdings) == 0


MIXED = parse_letters("TF--")


@pytest.mark.parametrize(
    ("denials", "doubt", "state", "due"),
    [
        (Outcome.DELIVERED, 0, "FF--", "----"),  # the grant is as it was, the denial is acknowledged
        (Outcome.REFUSED, 0, "FT--", "-F--"),
        (Outcome.OPEN, 0, "FT--", "-F--"),  # the run stopped before the denials went out
        (Outcome.DELIVERED, DOUBT_WHOLE, "FF--", "TF--"),  # the grant may have been applied; the older request is late
        (Outcome.REFUSED, DOUBT_WHOLE, "FT--", "TF--"),
        (Outcome.DELIVERED, DOUBT_DENIALS, "FF--", "-F--"),  # the grant was surely refused
        (Outcome.EXHAUSTED, DOUBT_DENIALS, "FT--", "-F--"),
        (Outcome.EXHAUSTED, DOUBT_WHOLE | DOUBT_DENIALS, "FT--", "TF--"),
    ],
)
def test_denials_repeated_without_the_grants_settle_apart(denials: Outcome, doubt: int, state: str, due: str) -> None:
    """A refused grant never strands a denial, and a denial's answer says nothing of the grant."""
    row = Ended(parse_letters("FT--"), 0, MIXED, Outcome.REFUSED, denials, doubt)
    after = _fold({}, {}, {4: row})
    assert _held(after.holdings) == {4: (parse_letters(state), parse_letters(due))}


def test_a_row_in_doubt_lingers_from_its_last_attempt_in_doubt() -> None:
    """A linger ends that long after the attempt, not after the fold; an older one that ends later stays."""
    doubtful = Ended(0, 0, DENIED, Outcome.EXHAUSTED, doubt=DOUBT_WHOLE, doubt_at=10.0)
    over = doubtful._replace(doubt_at=-30.0)
    after = _fold({}, {6: Lingers(160.0, acknowledged=True)}, {5: doubtful, 6: doubtful, 7: over})
    assert _who(after.lingering) == {5: Lingers(130.0, acknowledged=False), 6: Lingers(160.0, acknowledged=False)}
    assert _held(after.holdings) == dict.fromkeys((5, 6, 7), (0, DENIED))


@pytest.mark.parametrize(
    ("outcome", "denials", "acknowledged"),
    [
        (Outcome.DELIVERED, Outcome.OPEN, True),
        (Outcome.REFUSED, Outcome.OPEN, False),
        (Outcome.REFUSED, Outcome.DELIVERED, False),
        (Outcome.EXHAUSTED, Outcome.OPEN, False),
        (Outcome.DEFERRED, Outcome.OPEN, False),
        (Outcome.OPEN, Outcome.OPEN, False),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_only_a_row_delivered_whole_acknowledges_a_lingering_client(
    outcome: Outcome, denials: Outcome, acknowledged: bool, before: bool
) -> None:
    """An older acknowledgement does not outlive a newer row that was not delivered: its denials must not wait."""
    row = Ended(parse_letters("F---"), 0, MIXED, outcome, denials)
    after = _fold({}, {4: Lingers(130.0, before)}, {4: row})
    assert _who(after.lingering) == {4: Lingers(130.0, acknowledged)}


def test_what_a_lingering_client_acknowledges_stays_due() -> None:
    """An older request may be applied after the one that was acknowledged, so that is sent once more."""
    row = Ended(ALLOWED, 0, DENIED)
    late = {4: Lingers(130.0, acknowledged=False)}
    assert _held(_fold({}, late, {4: row}).holdings) == {4: (DENIED, DENIED)}
    assert _held(_fold({}, {4: Lingers(0.0, acknowledged=False)}, {4: row}).holdings) == {4: (DENIED, NOTHING)}
    retried = row._replace(doubt=DOUBT_WHOLE, doubt_at=10.0)
    assert _held(_fold({}, {}, {4: retried}).holdings) == {4: (DENIED, DENIED)}
