import contextlib
import itertools
import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_job.errors import StateDamagedError, StateError, StorageError
from sync_job.ledger import anchor
from sync_job.ledger.anchor import Anchor, Standing

TARGET = "https://loyalty.example/api operator 7"
ANCHOR = Anchor(
    TARGET,
    "a" * 32,
    run=5,
    snapshot=9,
    reconsents=3,
    withdrawn=20,
    unnamed=1,
    edition=4,
    digest="d" * 64,
    written=1_700_000_000.5,
    tombstones=2,
    moved_to="elsewhere",
    moved=1_700_000_000.0,
)
HERE = replace(ANCHOR, moved_to="")
COUNTS = ("run", "snapshot", "reconsents")

numbers = st.integers(0, 4)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a folder of keys with the anchor in it."""
    anchor.write(tmp_path / "keys", TARGET, ANCHOR)
    return tmp_path / "keys"


def _path(keys: Path) -> Path:
    (path,) = keys.glob("*.anchor.json")
    return path


def _anchor(counts: tuple[int, ...]) -> Anchor:
    run, snapshot, reconsents = counts
    return Anchor("t", "s", run, snapshot, reconsents)


def _compare(
    against: Anchor | None, *, anchored: bool = True, state: str = ANCHOR.state, missing: int = 0, **counts: int
) -> Standing:
    place = {name: getattr(ANCHOR, name) for name in COUNTS} | counts
    return anchor.compare(against, state=state, anchored=anchored, missing=missing, **place)


def test_what_is_written_is_read(keys: Path) -> None:
    """Every field comes back, and the last one written counts."""
    assert anchor.read(keys, TARGET) == ANCHOR
    later = Anchor(TARGET, "b" * 32, 6, 10, 4, 21, written=1_700_000_100.0, tombstones=3)
    anchor.write(keys, TARGET, later)
    assert anchor.read(keys, TARGET) == later


def test_no_folder_and_no_file_are_no_anchor(tmp_path: Path) -> None:
    """Looking finds nothing and makes nothing."""
    assert anchor.read(tmp_path / "keys", TARGET) is None
    assert not (tmp_path / "keys").exists()
    (tmp_path / "keys").mkdir(0o700)
    assert anchor.read(tmp_path / "keys", TARGET) is None


def test_a_folder_serves_several_targets(keys: Path) -> None:
    """Each target has its own anchor, named by the first twelve digits of its digest."""
    assert anchor.read(keys, "another") is None
    anchor.write(keys, "another", Anchor("another", "c" * 32, 1, 1, 0))
    assert anchor.read(keys, TARGET) == ANCHOR
    assert sorted(path.name for path in keys.iterdir()) == sorted(
        f"{anchor.tag(target)}.anchor.json" for target in (TARGET, "another")
    )
    assert len(anchor.tag(TARGET)) == 12


def test_folder_and_file_are_for_this_user_alone(tmp_path: Path) -> None:
    """Modes do not depend on the umask."""
    before = os.umask(0)
    try:
        anchor.write(tmp_path / "keys", TARGET, ANCHOR)
    finally:
        os.umask(before)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert _path(tmp_path / "keys").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o750, 0o755, 0o777], ids=oct)
def test_a_folder_that_others_may_enter_is_refused(keys: Path, mode: int) -> None:
    """Reading and writing both say which chmod mends it; so does looking into a folder without an anchor."""
    keys.chmod(mode)
    cure = rf"keys: .*chmod 700 .*{keys.name}$"
    with pytest.raises(StateError, match=cure):
        anchor.read(keys, TARGET)
    with pytest.raises(StateError, match=cure):
        anchor.read(keys, "another")
    with pytest.raises(StateError, match=cure):
        anchor.write(keys, TARGET, ANCHOR)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644], ids=oct)
def test_an_anchor_that_others_may_read_or_write_is_refused(keys: Path, mode: int) -> None:
    """The message has the chmod to run."""
    _path(keys).chmod(mode)
    with pytest.raises(StateError, match=rf"chmod 600 .*{_path(keys).name}$"):
        anchor.read(keys, TARGET)


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", "3", '"x"', "{}", '{"version": 1}', '{"version": 1, "seal": "x", "extra": 1}'],
)
def test_what_is_no_anchor_is_damage(keys: Path, content: str) -> None:
    """Whatever the file holds, the error names it and the cure, which is not a new state."""
    _path(keys).write_text(content)
    with pytest.raises(StateDamagedError, match=r"damaged .*backup of the keys.*state restored") as raised:
        anchor.read(keys, TARGET)
    assert str(_path(keys)) in str(raised.value)
    assert "init" not in str(raised.value)


def test_bytes_that_are_no_text_are_damage(keys: Path) -> None:
    """A file that is no UTF-8 is damaged like any other."""
    _path(keys).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(StateDamagedError, match="damaged"):
        anchor.read(keys, TARGET)


@pytest.mark.parametrize("name", [one.name for one in fields(Anchor) if one.name != "renumberings"] + ["seal"])
def test_no_field_changes_unseen(keys: Path, name: str) -> None:
    """Each field is under the seal: lowering a count by hand does not make a restored backup whole."""
    content = json.loads(_path(keys).read_text())
    content[name] = 0 if isinstance(content[name], int | float) else "x"
    _path(keys).write_text(json.dumps(content))
    with pytest.raises(StateDamagedError, match="does not match its digest"):
        anchor.read(keys, TARGET)


def test_no_byte_changes_the_anchor_unseen(keys: Path) -> None:
    """A flipped bit anywhere is damage, or changes nothing that is said."""
    whole = _path(keys).read_bytes()
    for place in range(len(whole)):
        _path(keys).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(StateDamagedError):
            assert anchor.read(keys, TARGET) == ANCHOR


def test_another_targets_anchor_under_this_name_is_refused(keys: Path) -> None:
    """A file that was copied to another target's name is not taken for its anchor."""
    path = keys / f"{anchor.tag('another')}.anchor.json"
    path.write_bytes(_path(keys).read_bytes())
    path.chmod(0o600)
    with pytest.raises(StateDamagedError, match="it is the anchor of"):
        anchor.read(keys, "another")


def test_a_newer_version_is_refused(keys: Path) -> None:
    """What a later program wrote is not guessed at."""
    _path(keys).write_text(json.dumps(json.loads(_path(keys).read_text()) | {"version": 2}))
    with pytest.raises(StateDamagedError, match="version 2 of the anchor; this program knows 1"):
        anchor.read(keys, TARGET)


def test_a_folder_that_cannot_be_looked_into_is_not_one_without_an_anchor(tmp_path: Path) -> None:
    """What the system refuses is an error, never the answer that nothing is there."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        anchor.read(tmp_path / "file" / "keys", TARGET)


def test_the_same_state_is_good() -> None:
    """A state stands well where its anchor left it."""
    assert _compare(HERE) is Standing.GOOD


def test_a_state_that_moved_on_is_neither_good_nor_older() -> None:
    """Under its old name nothing goes on, however far it had come; another state of that name is another one."""
    assert _compare(ANCHOR) is Standing.MOVED
    assert _compare(ANCHOR, run=1, missing=3) is Standing.MOVED
    assert _compare(ANCHOR, state="b" * 32) is Standing.FOREIGN


def test_the_way_of_a_state_is_followed(tmp_path: Path) -> None:
    """Where it has moved is said through several moves, with when it first did; nobody goes round in circles."""
    assert anchor.moved(tmp_path / "keys", "a") == ""
    for target, to in (("a", "b"), ("b", "c"), ("c", "")):
        anchor.write(tmp_path / "keys", target, replace(ANCHOR, target=target, moved_to=to))
    assert anchor.moved(tmp_path / "keys", "a") == "c, on 2023-11-14"
    assert anchor.moved(tmp_path / "keys", "c") == ""
    anchor.write(tmp_path / "keys", "c", replace(ANCHOR, target="c", moved_to="a"))
    assert anchor.moved(tmp_path / "keys", "a")


def test_a_state_that_never_had_an_anchor_is_good_and_one_that_lost_it_is_restored() -> None:
    """Without an anchor only the state itself knows whether there was one."""
    assert _compare(None, anchored=False) is Standing.GOOD
    assert _compare(None, anchored=True) is Standing.RESTORED
    assert _compare(None, anchored=False, missing=1) is Standing.SHRUNKEN


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("steps", list(itertools.product((-1, 0, 1), repeat=3)))
@pytest.mark.parametrize("missing", [0, 1])
def test_every_case(missing: int, steps: tuple[int, ...], same: bool, anchored: bool) -> None:
    """Another id is foreign; whoever is missing makes it shrunken; else any lower number restored; all else good."""
    counts = {name: getattr(ANCHOR, name) + step for name, step in zip(COUNTS, steps, strict=True)}
    if not same:
        expected = Standing.FOREIGN
    elif missing:
        expected = Standing.SHRUNKEN
    elif min(steps) < 0:
        expected = Standing.RESTORED
    else:
        expected = Standing.GOOD
    state = ANCHOR.state if same else "b" * 32
    assert _compare(HERE, anchored=anchored, state=state, missing=missing, **counts) is expected


@given(st.tuples(*[numbers] * 3), st.tuples(*[numbers] * 3), st.booleans())
def test_good_means_that_nothing_went_back(then: tuple[int, ...], now: tuple[int, ...], anchored: bool) -> None:
    """A state is good if and only if no number is lower than its anchor's, however far it went on."""
    place = dict(zip(COUNTS, now, strict=True))
    found = anchor.compare(_anchor(then), state="s", missing=0, anchored=anchored, **place)
    assert (found is Standing.GOOD) == all(is_ >= was for was, is_ in zip(then, now, strict=True))


@given(st.tuples(*[numbers] * 3), st.tuples(*[numbers] * 3), st.sampled_from(COUNTS))
def test_going_on_never_makes_a_state_worse(then: tuple[int, ...], now: tuple[int, ...], name: str) -> None:
    """One step forward in any number never turns a better standing into a worse one."""
    worse = [Standing.GOOD, Standing.RESTORED, Standing.SHRUNKEN]
    place = dict(zip(COUNTS, now, strict=True))
    held = _anchor(then)
    before = anchor.compare(held, state="s", missing=0, anchored=True, **place)
    after = anchor.compare(held, state="s", missing=0, anchored=True, **place | {name: place[name] + 1})
    assert worse.index(after) <= worse.index(before)
