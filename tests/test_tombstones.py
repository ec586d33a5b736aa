import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_job.errors import StateDamagedError, StateError, StorageError
from sync_job.ledger import anchor, keyed, tombstones
from sync_job.ledger.tombstones import Tombstones

TARGET = "https://loyalty.example/api operator 7"
LOWEST, HIGHEST = -(2**31), 2**31 - 1
NOBODY = 65534


def _ids(*ids: int) -> npt.NDArray[np.int32]:
    return np.array(ids, np.int32)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a folder of keys in which clients 1, 5 and 7 are forgotten since second 100."""
    Tombstones.open(tmp_path / "keys", TARGET).add(_ids(1, 5, 7), 100.0)
    return tmp_path / "keys"


def _list(keys: Path, target: str = TARGET) -> Path:
    return keys / f"{anchor.tag(target)}.tombstones"


def _key(keys: Path) -> Path:
    return keys / "tombstones.key"


def _rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)


def test_the_forgotten_are_known_again(keys: Path) -> None:
    """Those who were added are found, in whatever order and however often they are asked for; nobody else is."""
    buried = Tombstones.open(keys, TARGET)
    assert buried.of(_ids(7, 2, 1, 7, 5, 0, -1)).tolist() == [True, False, True, True, True, False, False]
    assert buried.of(_ids()).tolist() == []
    assert len(buried) == 3


def test_added_ones_are_known_at_once(keys: Path) -> None:
    """The object that added them need not be opened again."""
    buried = Tombstones.open(keys, TARGET)
    buried.add(_ids(8), 200.0)
    assert buried.of(_ids(8, 1, 9)).tolist() == [True, True, False]


def test_the_ends_of_the_range_are_ids_like_others(tmp_path: Path) -> None:
    """The lowest and the highest id, zero and minus one are told apart."""
    ends = _ids(LOWEST, -1, 0, HIGHEST)
    for one in range(4):
        buried = Tombstones.open(tmp_path / str(one), TARGET)
        buried.add(ends[one : one + 1], 1.0)
        assert Tombstones.open(tmp_path / str(one), TARGET).of(ends).tolist() == [i == one for i in range(4)]


@given(st.lists(st.lists(st.integers(LOWEST, HIGHEST), max_size=8), max_size=4), st.data())
def test_it_is_a_set_with_times(
    tmp_path_factory: pytest.TempPathFactory, adding: list[list[int]], data: st.DataObject
) -> None:
    """Whatever was added in whatever order, it answers as a dict with the latest times does, opened anew or not."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    buried, model = Tombstones.open(keys, TARGET), dict[int, float]()
    for ids in adding:
        now = data.draw(st.floats(0, 4e9))
        buried.add(_ids(*ids), now)
        for client in ids:
            model[client] = max(now, model.get(client, now))
    asked = data.draw(st.permutations([*model, 0, 1, -1]))
    for one in (buried, Tombstones.open(keys, TARGET)):
        assert len(one) == len(model)
        assert one.of(_ids(*asked)).tolist() == [client in model for client in asked]
        expected = [model.get(client, math.nan) for client in asked]
        np.testing.assert_array_equal(one.since(_ids(*asked)), expected)


def test_since_tells_when_and_the_latest_time_counts(keys: Path) -> None:
    """To forget again moves the time forward, never back; NaN stands for those who were not forgotten."""
    buried = Tombstones.open(keys, TARGET)
    buried.add(_ids(5, 9), 200.0)
    buried.add(_ids(7), 50.0)
    for one in (buried, Tombstones.open(keys, TARGET)):
        np.testing.assert_array_equal(one.since(_ids(9, 5, 7, 2)), [200.0, 200.0, 100.0, math.nan])
    assert buried.since(_ids()).tolist() == []


def test_to_forget_again_writes_nothing(keys: Path) -> None:
    """Adding is idempotent to the last byte."""
    before = _list(keys).read_bytes(), _list(keys).stat().st_ino
    Tombstones.open(keys, TARGET).add(_ids(7, 1), 100.0)
    assert (_list(keys).read_bytes(), _list(keys).stat().st_ino) == before


def test_looking_makes_nothing(tmp_path: Path) -> None:
    """Neither folder nor key comes of asking, nor of adding nobody."""
    buried = Tombstones.open(tmp_path / "keys", TARGET)
    buried.add(_ids(), 1.0)
    assert len(buried) == 0
    assert buried.of(_ids(1, 2)).tolist() == [False, False]
    assert np.isnan(buried.since(_ids(1, 2))).all()
    assert not (tmp_path / "keys").exists()


def test_modes_are_this_users_alone(tmp_path: Path) -> None:
    """Folder, key and list are private whatever the umask says, and no draft stays behind."""
    before = os.umask(0)
    try:
        Tombstones.open(tmp_path / "keys", TARGET).add(_ids(1), 1.0)
    finally:
        os.umask(before)
    keys = tmp_path / "keys"
    found = {path.name: path.stat().st_mode & 0o777 for path in keys.iterdir()}
    assert found == {_key(keys).name: 0o400, _list(keys).name: 0o600}
    assert keys.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[Path]:
    """Be a user without privileges for the test, in a folder of their own; skipped where only root could become one."""
    keyed._encrypt(bytes(32), bytes(16))  # Loaded while the libraries can be read for sure.
    "".encode("ascii")
    if os.geteuid() != 0:
        yield tmp_path
        return
    home = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    os.chown(home, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield home
    finally:
        os.seteuid(0)
        shutil.rmtree(home)


def test_it_works_without_roots_privileges(as_nobody: Path) -> None:
    """The key is made, read and used by a user whom its own mode binds."""
    keys = as_nobody / "keys"
    Tombstones.open(keys, TARGET).add(_ids(1), 1.0)
    Tombstones.open(keys, TARGET).add(_ids(2), 2.0)
    assert Tombstones.open(keys, TARGET).of(_ids(1, 2, 3)).tolist() == [True, True, False]


def test_a_folder_that_may_not_be_entered_is_not_one_without_tombstones(as_nobody: Path) -> None:
    """What the system refuses is an error: nobody is sent again because the folder's owner is another."""
    Tombstones.open(as_nobody / "keys", TARGET).add(_ids(1), 1.0)
    (as_nobody / "keys").chmod(0)
    try:
        with pytest.raises(StorageError, match="run as the folder's owner"):
            Tombstones.open(as_nobody / "keys", TARGET)
    finally:
        (as_nobody / "keys").chmod(0o700)


def test_nothing_names_a_client(keys: Path) -> None:
    """The list has a code and a time for each, nothing of the id, and another code under another key."""
    lines = _list(keys).read_text().splitlines()[1:]
    assert [len(line.split()[0]) for line in lines] == [32, 32, 32]
    assert {line.split()[1] for line in lines} == {"100.0"}
    _key(keys).unlink()
    _list(keys).rename(keys.parent / "old")
    Tombstones.open(keys, TARGET).add(_ids(1, 5, 7), 100.0)
    assert not set(lines) & set(_list(keys).read_text().splitlines())


def test_targets_share_the_key_and_not_the_list(keys: Path) -> None:
    """A client who is forgotten at one platform is not at another; the key is made once."""
    key = _key(keys).read_bytes()
    other = Tombstones.open(keys, "another")
    assert other.of(_ids(1, 5, 7)).tolist() == [False] * 3
    other.add(_ids(2), 1.0)
    assert _key(keys).read_bytes() == key
    assert Tombstones.open(keys, TARGET).of(_ids(1, 2)).tolist() == [True, False]
    assert Tombstones.open(keys, "another").of(_ids(1, 2)).tolist() == [False, True]


def test_of_two_that_begin_at_once_one_makes_the_key(tmp_path: Path) -> None:
    """A run that finds no key and is overtaken takes the other's key: its own would lose whom the other knows."""
    first, second = (Tombstones.open(tmp_path / "keys", target) for target in (TARGET, "another"))
    first.add(_ids(1), 1.0)
    second.add(_ids(2), 2.0)
    assert Tombstones.open(tmp_path / "keys", TARGET).of(_ids(1)).all()
    assert Tombstones.open(tmp_path / "keys", "another").of(_ids(2)).all()


def test_a_key_is_never_put_in_anothers_place(tmp_path: Path) -> None:
    """Even from within the making of a key, one that is there by then stays and is used."""
    first = keyed.make_key(tmp_path / "keys")
    assert keyed.make_key(tmp_path / "keys") == first == _key(tmp_path / "keys").read_bytes()
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["tombstones.key"]


def test_a_list_without_its_key_is_refused(keys: Path) -> None:
    """Who was forgotten cannot be recognised: nothing is sent until the key is back."""
    kept = _key(keys).read_bytes()
    _key(keys).unlink()
    with pytest.raises(StateError, match=r"tombstones\.key: gone.*Restore the key.*Nothing was sent"):
        Tombstones.open(keys, TARGET)
    _key(keys).write_bytes(kept)
    _key(keys).chmod(0o400)
    assert Tombstones.open(keys, TARGET).of(_ids(1)).all()


def test_a_lost_key_is_not_made_anew_for_another_target(keys: Path) -> None:
    """A new key would make the first target's list unreadable for good, and nobody would notice."""
    _key(keys).unlink()
    with pytest.raises(StateError, match=rf"gone, and {_list(keys).name}"):
        Tombstones.open(keys, "another").add(_ids(2), 1.0)
    assert not _key(keys).exists()
    assert not _list(keys, "another").exists()


def test_another_key_is_refused(keys: Path) -> None:
    """A key from the wrong backup recognises nobody; the list tells that it is not its own."""
    _rewrite(_key(keys), bytes(32))
    _key(keys).chmod(0o400)
    with pytest.raises(StateError, match=r"not the key .*Restore the key from the same backup") as raised:
        Tombstones.open(keys, TARGET)
    assert not isinstance(raised.value, StateDamagedError)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_damaged(keys: Path, size: int) -> None:
    """Half a key is not stretched."""
    _rewrite(_key(keys), bytes(size))
    with pytest.raises(StateDamagedError, match=f"{size} bytes instead of 32"):
        Tombstones.open(keys, TARGET)


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(("key", "list", "folder"), (0o640, 0o604, 0o750))))
def test_looser_modes_are_refused(keys: Path, name: str, mode: int) -> None:
    """Key, list and folder are for this user alone, and the error has the chmod to run."""
    path = {"key": _key(keys), "list": _list(keys), "folder": keys}[name]
    path.chmod(mode | 0o100 if name == "folder" else mode)
    with pytest.raises(StateError, match=rf"chmod [67]00 .*{path.name}$"):
        Tombstones.open(keys, TARGET)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"abc 1\n", b"consent-sync-tombstones 1 x y"])
def test_what_is_no_list_is_refused(keys: Path, content: bytes) -> None:
    """An empty or foreign file is never the list of nobody."""
    _rewrite(_list(keys), content)
    with pytest.raises(StateError, match="Nothing was sent"):
        Tombstones.open(keys, TARGET)


def test_no_byte_of_the_list_changes_unseen(keys: Path) -> None:
    """A flipped bit or a lost tail is refused wherever it is; a line less would send a forgotten client again."""
    whole = _list(keys).read_bytes()
    flipped = (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole)))
    for damaged in itertools.chain(flipped, (whole[:at] for at in range(len(whole)))):
        _rewrite(_list(keys), damaged)
        with pytest.raises(StateError):
            Tombstones.open(keys, TARGET)


def test_a_newer_list_is_refused(keys: Path) -> None:
    """What a later program wrote is not guessed at."""
    _rewrite(_list(keys), _list(keys).read_bytes().replace(b"tombstones 1 ", b"tombstones 2 ", 1))
    with pytest.raises(StateDamagedError, match="version 2 of the list; this program knows 1"):
        Tombstones.open(keys, TARGET)


def test_what_could_not_be_written_is_not_believed(keys: Path) -> None:
    """An addition that did not reach the disk is not there in memory either, and can be made again."""
    buried = Tombstones.open(keys, TARGET)
    (keys / f".{_list(keys).name}.new").mkdir()
    with pytest.raises(StorageError):
        buried.add(_ids(2), 1.0)
    assert not buried.of(_ids(2)).any()
    (keys / f".{_list(keys).name}.new").rmdir()
    buried.add(_ids(2), 1.0)
    assert Tombstones.open(keys, TARGET).of(_ids(2)).all()


def test_chunks_meet_without_a_seam(tmp_path: Path) -> None:
    """More ids than are encrypted at once are each judged in their own place."""
    ids = np.arange(2 * tombstones._CHUNK + 3, dtype=np.int32)
    gone = np.unique(np.concatenate([ids[::1009], [0, tombstones._CHUNK - 1, tombstones._CHUNK, len(ids) - 1]]))
    buried = Tombstones.open(tmp_path / "keys", TARGET)
    buried.add(gone.astype(np.int32), 1.0)
    assert np.flatnonzero(buried.of(ids)).tolist() == gone.tolist()
