import numpy as np
import pytest

from sync_job.consent.known import Holdings, Known, Lingering, Obligations, no_lingering, nobody, nothing_owed


def _ids(*ids: int) -> np.typing.NDArray[np.int32]:
    return np.array(ids, np.int32)


LINGERING = Lingering(_ids(3, 5, 9), np.array([100.0, 200.0, 300.0]), np.array([True, False, True]))


@pytest.mark.parametrize(
    ("now", "lingers", "acknowledged"),
    [
        (50.0, [True, True, True], [True, False, True]),
        (99.9, [True, True, True], [True, False, True]),
        (100.0, [False, True, True], [False, False, True]),  # over at its end
        (250.0, [False, False, True], [False, False, True]),
        (300.0, [False, False, False], [False, False, False]),
    ],
)
def test_a_client_lingers_until_its_time_is_over(now: float, lingers: list[bool], acknowledged: list[bool]) -> None:
    """From its end on nobody lingers, and nobody counts as acknowledged who does not linger."""
    found = LINGERING.of(_ids(3, 5, 9), now)
    assert [part.tolist() for part in found] == [lingers, acknowledged]


def test_clients_of_whom_nothing_is_known_do_not_linger() -> None:
    """Below, between and above the known ids, in any order; and where nobody lingers at all."""
    assert [part.tolist() for part in LINGERING.of(_ids(10, 1, 5, 4), 0.0)] == [
        [False, False, True, False],
        [False, False, False, False],
    ]
    for part in (*no_lingering().of(_ids(3), 0.0), *LINGERING.of(_ids(), 0.0)):
        assert not part.any()


def test_everyone_lingers_after_a_restore_and_only_what_came_after_it_was_acknowledged() -> None:
    """An end of one's own that is later counts; one that is earlier was acknowledged by a state that was lost."""
    restored = LINGERING._replace(everyone=200.0, acknowledged=np.array([True, True, True]))
    ids = _ids(1, 3, 5, 9)
    assert [part.tolist() for part in restored.of(ids, 150.0)] == [[True] * 4, [False, False, True, True]]
    assert [part.tolist() for part in restored.of(ids, 200.0)] == [[False, False, False, True]] * 2
    assert restored.ends(ids).tolist() == [200.0, 200.0, 200.0, 300.0]
    assert [part.tolist() for part in no_lingering()._replace(everyone=1.0).of(ids, 0.0)] == [[True] * 4, [False] * 4]


OWED = Obligations(_ids(3, 5), np.array([0b0101, 0b0100], np.uint8), np.array([70.0, 60.0]))


def test_what_is_owed_is_found_by_client() -> None:
    """The table has the channels, and `first` the limit of each; who is owed nothing has none."""
    assert OWED.table().of(_ids(1, 3, 4, 5, 6)).tolist() == [0, 0b0101, 0, 0b0100, 0]
    assert OWED.first(_ids(6, 5, 3, 1)).tolist() == [np.inf, 60.0, 70.0, np.inf]


def test_nothing_is_owed_where_nothing_is() -> None:
    """No channels and no limits, of anybody."""
    assert nothing_owed().table().of(_ids(1)).tolist() == [0]
    assert nothing_owed().first(_ids(1, 2)).tolist() == [np.inf, np.inf]
    assert OWED.first(_ids()).tolist() == []


def test_nothing_more_is_known_unless_it_is_said() -> None:
    """Of clients alone: nobody withdrew, waits, lingers, or is owed anything."""
    holdings = Holdings(_ids(1, 2), np.array([1, 2], np.uint8), np.array([0, 1], np.uint8))
    known = Known(holdings)
    assert len(holdings) == 2
    assert known.withdrawn.clients() == known.waiting.clients() == nobody().clients() == 0
    assert len(known.owed.client) == len(known.lingering.client) == 0


def test_holdings_are_found_by_client_and_replaced() -> None:
    """Who is not there has nothing; who has nothing left is dropped; all stay in ascending order."""
    holdings = Holdings(_ids(2, 5, 9), np.array([1, 2, 3], np.uint8), np.array([0, 1, 0], np.uint8))
    assert [part.tolist() for part in holdings.of(_ids(9, 1, 5, 10))] == [[3, 0, 2, 0], [0, 0, 1, 0]]
    assert holdings.has(_ids(9, 1, 5)).tolist() == [True, False, True]
    rows = Holdings(_ids(1, 5, 9, 11), np.array([4, 0, 6, 0], np.uint8), np.array([0, 0, 7, 0], np.uint8))
    after = holdings.replaced(rows)
    assert [part.tolist() for part in (after.client, after.state, after.due)] == [[1, 2, 9], [4, 1, 6], [0, 0, 7]]
    nobody_ = Holdings(_ids(), np.zeros(0, np.uint8), np.zeros(0, np.uint8))
    assert nobody_.replaced(rows).client.tolist() == [1, 9]
    assert holdings.replaced(nobody_) is holdings
    assert not nobody_.has(_ids(1)).any()
