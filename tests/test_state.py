from pathlib import Path

import numpy as np
import pytest

from sync_job.consent.known import Holdings, no_lingering
from sync_job.consent.rows import Rows
from sync_job.errors import NoStateError, StateDamagedError, StateError
from sync_job.ledger import tables
from sync_job.ledger.state import SNAPSHOTS_KEPT, State

TARGET = "http://127.0.0.1:1 operator 0"
_NO_IDS, _NO_BYTES = np.zeros(0, np.int32), np.zeros(0, np.uint8)


def _holdings(*states: int) -> Holdings:
    values = np.array(states, np.uint8)
    return Holdings(np.arange(1, len(values) + 1, dtype=np.int32), values, np.zeros_like(values))


def _commit(state: State, run: str, leg: int, holdings: Holdings) -> int:
    return state.commit_leg(run, leg, holdings=holdings, lingering=no_lingering(), now=1.0)


def _made(folder: Path) -> None:
    with State.create(folder, TARGET, 1.0) as state:
        _commit(state, state.ledger.begin("init", 1.0, "n"), 0, _holdings(1, 2))


def test_the_snapshot_that_counts_is_read(tmp_path: Path) -> None:
    """Each commit replaces it, and a reopened folder has the last."""
    folder = tmp_path / "state"
    _made(folder)
    with State.open(folder, TARGET, write=True) as state:
        assert state.holdings().state.tolist() == [1, 2]
        assert _commit(state, "r", 1, _holdings(2, 2, 1)) == 2
    with State.open(folder, TARGET, write=False) as state:
        assert state.holdings().state.tolist() == [2, 2, 1]


def test_everything_is_for_this_user_alone(tmp_path: Path) -> None:
    """Folders 0700, files 0600."""
    folder = tmp_path / "state"
    _made(folder)
    with State.open(folder, TARGET, write=True) as state:
        leg = state.new_leg("0002-x", 1)
        tables.write_plan(leg.plan, Rows(_NO_IDS, *(_NO_BYTES,) * 4), {})
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), modes
    assert "state/runs/0002-x/1/plan.parquet" in modes


def test_old_snapshots_are_removed(tmp_path: Path) -> None:
    """The last few stay, and what is not a snapshot is left alone."""
    folder = tmp_path / "state"
    _made(folder)
    (folder / "snapshots" / "mine.parquet").touch()
    with State.open(folder, TARGET, write=True) as state:
        for leg in range(10):
            last = _commit(state, "r", leg, _holdings(leg))
        assert state.holdings().state.tolist() == [9]
    kept = {path.stem for path in (folder / "snapshots").iterdir()}
    assert kept == {"mine", *(str(number) for number in range(last - SNAPSHOTS_KEPT + 1, last + 1))}


def test_legs_are_those_with_a_plan(tmp_path: Path) -> None:
    """In the order of their numbers; removing a run takes them all."""
    _made(tmp_path / "state")
    with State.open(tmp_path / "state", TARGET, write=True) as state:
        assert state.legs("0002-x") == []
        for number in (10, 2, 1, 3):
            leg = state.new_leg("0002-x", number)
            if number != 3:
                tables.write_plan(leg.plan, Rows(_NO_IDS, *(_NO_BYTES,) * 4), {})
        assert [leg.number for leg in state.legs("0002-x")] == [1, 2, 10]
        for _ in range(2):
            state.remove_run("0002-x")
            assert not state.run_folder("0002-x").exists()


def test_state_is_never_made_over_state(tmp_path: Path) -> None:
    """The second `create` refuses by the absolute path, and the first snapshot stays."""
    folder = tmp_path / "state"
    _made(folder)
    with pytest.raises(StateError, match="there is state already") as raised:
        State.create(folder, TARGET, 2.0)
    assert str(folder) in str(raised.value)
    with State.open(folder, TARGET, write=False) as state:
        assert len(state.holdings()) == 2


def test_an_init_that_died_is_made_anew(tmp_path: Path) -> None:
    """A ledger without a snapshot is replaced: nothing was sent by it."""
    folder = tmp_path / "state"
    State.create(folder, TARGET, 1.0).close()
    with pytest.raises(NoStateError, match="`init` did not end here"):
        State.open(folder, TARGET, write=False)
    _made(folder)
    State.open(folder, TARGET, write=False).close()


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    """The message has the command that mends it."""
    folder = tmp_path / "state"
    _made(folder)
    folder.chmod(0o750)
    with pytest.raises(StateError, match=r"mode 750.*chmod 700"):
        State.open(folder, TARGET, write=False)


@pytest.mark.parametrize("harm", ["missing", "another", "cut"])
def test_a_snapshot_that_is_not_the_ledgers_is_refused(tmp_path: Path, harm: str) -> None:
    """Missing, exchanged for another whole one, or cut short."""
    folder = tmp_path / "state"
    _made(folder)
    path = folder / "snapshots" / "1.parquet"
    if harm == "missing":
        path.unlink()
    elif harm == "another":
        tables.write_snapshot(path, _holdings(2, 2))
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with (
        State.open(folder, TARGET, write=False) as state,
        pytest.raises(StateDamagedError, match=r"1\.parquet: damaged"),
    ):
        state.holdings()
