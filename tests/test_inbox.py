import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.errors import StateDamagedError, StateError, StorageError
from sync_job.ledger import inbox

DIGEST = "ab" * 32
ROW = st.fixed_dictionaries(
    {
        "client": st.integers(1, 2**31 - 1),
        "given": st.integers(0, 2**31 - 1),
        "channels": st.sampled_from((1, 4, 16, 64, 85)),
        "received_at": st.floats(0, 2e9),
        "withdrawn_at": st.floats(0, 2e9),
        "basis": st.integers(0, 3),
        "request_ref": st.text(st.characters(codec="utf-8"), max_size=8),
    }
)


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir(0o700)
    return tmp_path


def _list(rows: int, *, chunks: int = 1) -> pa.Table:
    table = pa.Table.from_pylist(
        [
            {
                "client": client,
                "given": 7 * client % 5,
                "channels": 85,
                "received_at": 10.5,
                "withdrawn_at": 10.0,
                "basis": client % 4,
                "request_ref": f"ж{client}",
            }
            for client in range(1, rows + 1)
        ],
        inbox.SCHEMA,
    )
    size = -(-rows // chunks)
    return pa.concat_tables([table.slice(start, size) for start in range(0, rows, size)])


def _put(folder: Path, table: pa.Table, digest: str = DIGEST, now: float = 1.0) -> Path:
    return inbox.put(folder, table, digest=digest, source="list.csv", now=now)


def _rows(path: Path) -> list[dict[str, Any]]:
    batches, _ = inbox.read(path)
    return [row for batch in batches for row in batch.to_pylist()]


def _said(path: Path, **changes: object) -> None:
    """Write the list in *path* again with other things said of itself, as another program would."""
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"consent-sync"]) | changes
    pq.write_table(table.replace_schema_metadata({b"consent-sync": json.dumps(about).encode()}), path)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(ROW, max_size=30), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_what_was_put_is_read(rows: list[dict[str, Any]], cuts: list[int]) -> None:
    """Each row as it was, in order, however the table was cut into chunks."""
    table = pa.Table.from_pylist(rows, inbox.SCHEMA)
    places = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts = [table.slice(start, end - start) for start, end in pairwise(places)]
    with TemporaryDirectory() as place:
        path = _put(_folder(Path(place)), pa.concat_tables(parts) if parts else table)
        assert _rows(path) == rows
        assert inbox.read(path)[1]["rows"] == len(rows)


def test_a_list_says_what_it_is(tmp_path: Path) -> None:
    """Kind, version, rows, digest, source and time; for this user alone, named by its digest."""
    path = _put(_folder(tmp_path), _list(3), now=7.5)
    assert path == tmp_path / "inbox" / f"{DIGEST}.parquet"
    assert path.stat().st_mode & 0o777 == 0o600
    about = inbox.read(path)[1]
    wanted = {"kind": "opt-out", "version": 1, "rows": 3, "digest": DIGEST, "source": "list.csv", "taken_in": 7.5}
    assert wanted.items() <= about.items()


def test_the_same_list_put_twice_is_there_once(tmp_path: Path) -> None:
    """Whoever types the command again adds nothing."""
    folder = _folder(tmp_path)
    assert _put(folder, _list(3)) == _put(folder, _list(3), now=2.0)
    assert [path.name for path in (folder / "inbox").iterdir()] == [f"{DIGEST}.parquet"]


def test_the_same_list_may_be_put_by_several_at_once(tmp_path: Path) -> None:
    """Without a lock: nobody is refused, the list that is there is whole at every moment, and nothing else is left."""
    folder, table = _folder(tmp_path), _list(20_000)
    path = _put(folder, table)
    with ThreadPoolExecutor(8) as pool:
        puts = [pool.submit(_put, folder, table, DIGEST, float(number)) for number in range(24)]
        while not all(one.done() for one in puts):
            assert sum(batch.num_rows for batch in inbox.read(path)[0]) == 20_000
        assert {one.result() for one in puts} == {path}
    assert list((folder / "inbox").iterdir()) == [path]


def test_a_list_needs_an_inbox(tmp_path: Path) -> None:
    """No folder is made where the configuration may be wrong: the error names it and the cure."""
    with pytest.raises(StateError, match=r"inbox: no inbox\. `consent-sync init`"):
        _put(tmp_path, _list(1))
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    """A name that the disk does not take stands for a full one: the error names the file, the others stay."""
    folder = _folder(tmp_path)
    path = _put(folder, _list(3))
    with pytest.raises(StorageError, match="name too long"):
        _put(folder, _list(3), digest="c" * 300)
    assert list((folder / "inbox").iterdir()) == [path]


def test_a_row_that_says_nothing_is_not_taken(tmp_path: Path) -> None:
    """A null would be read as somebody's choice."""
    folder = _folder(tmp_path)
    for name in inbox.SCHEMA.names:
        table = pa.Table.from_pylist([_list(1).to_pylist()[0] | {name: None}], inbox.SCHEMA)
        with pytest.raises(ValueError, match=f"{name} has a null"):
            _put(folder, table)
    assert inbox.waiting(folder) == []


def test_waiting_lists_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    """What begins with a dot is being written; a folder without an inbox has nothing waiting."""
    assert inbox.waiting(tmp_path) == []
    folder = _folder(tmp_path)
    for digest in ("c1", "a2", "b3"):
        _put(folder, _list(1), digest=digest)
    (folder / "inbox" / ".d4.parquet.new").write_bytes(b"half")
    assert [path.stem for path in inbox.waiting(folder)] == ["a2", "b3", "c1"]


def test_a_long_list_is_read_in_pieces(tmp_path: Path) -> None:
    """No piece has more than 65,536 rows: reading needs little memory."""
    batches, about = inbox.read(_put(_folder(tmp_path), _list(150_000, chunks=7)))
    sizes = [batch.num_rows for batch in batches]
    assert sum(sizes) == about["rows"] == 150_000
    assert max(sizes) <= 1 << 16


def test_a_damaged_list_is_known_and_stays(tmp_path: Path) -> None:
    """Whichever bit changed: either nothing of the content did, or the error names the file; the others are read."""
    folder = _folder(tmp_path)
    other = _put(folder, _list(2), digest="other")
    path = _put(folder, _list(40))
    whole, rows, about = path.read_bytes(), _rows(path), inbox.read(path)[1]
    errors = []
    for place in random.Random(1).sample(range(len(whole)), 600):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert (_rows(path), inbox.read(path)[1]) == (rows, about)
        except StateDamagedError as exc:
            errors.append(str(exc))
        assert path.read_bytes() == changed
    assert len(errors) > 300, "what is unseen lies in parts of the format that mean nothing"
    assert all(str(path) in error for error in errors)
    assert len(_rows(other)) == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_list_that_was_cut_short_is_known(tmp_path: Path, share: float) -> None:
    """As a copy that ended early leaves it."""
    path = _put(_folder(tmp_path), _list(40))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(StateDamagedError, match=DIGEST):
        inbox.read(path)


def test_another_file_is_no_list(tmp_path: Path) -> None:
    """Neither a Parquet file of somebody else, nor text, nor one that is gone."""
    folder = _folder(tmp_path)
    path = folder / "inbox" / "x.parquet"
    with pytest.raises(StateDamagedError, match="missing"):
        inbox.read(path)
    pq.write_table(_list(1), path)
    with pytest.raises(StateDamagedError, match="not a list"):
        inbox.read(path)
    path.write_text("Client\n5\n")
    with pytest.raises(StateDamagedError, match="damaged"):
        inbox.read(path)


@pytest.mark.parametrize("changes", [{"digest": "another"}, {"taken_in": 9.0}, {"rows": 2}, {"content": "0"}])
def test_what_a_list_says_of_itself_is_sealed(tmp_path: Path, changes: dict[str, object]) -> None:
    """Nobody may give it another identity or time."""
    path = _put(_folder(tmp_path), _list(3))
    _said(path, **changes)
    with pytest.raises(StateDamagedError, match="does not match its digest"):
        inbox.read(path)


def test_a_newer_list_waits_for_its_version(tmp_path: Path) -> None:
    """It is not damaged: the error says which program takes it in, and it stays."""
    path = _put(_folder(tmp_path), _list(3))
    _said(path, version=2)
    with pytest.raises(StateError, match=f"{DIGEST}.*does not know") as caught:
        inbox.read(path)
    assert not isinstance(caught.value, StateDamagedError)
    assert path.exists()


def test_a_list_is_removed_once(tmp_path: Path) -> None:
    """Removing again is fine: a death in between may have left it or not."""
    path = _put(_folder(tmp_path), _list(3))
    inbox.remove(path)
    inbox.remove(path)
    assert inbox.waiting(tmp_path) == []
