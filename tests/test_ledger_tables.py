import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sync_job.consent.known import Holdings
from sync_job.consent.rows import Rows
from sync_job.errors import StateDamagedError
from sync_job.ledger import tables

ABOUT = {"run": "0002-x", "leg": 1, "planned": 1000.5, "export": {"rows": 3}, "limits": "ж"}


def _bytes(*values: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(values, np.uint8)


def _holdings() -> Holdings:
    return Holdings(np.array([1, 7, 2**31 - 1], np.int32), _bytes(0, 0b01100110, 1), _bytes(0b10101010, 0, 4))


def _rows() -> Rows:
    client = np.array([9, 2**31 - 1, 1], np.int32)  # in sending order, not in that of the ids
    return Rows(client, _bytes(0, 1, 2), _bytes(1, 0, 0), _bytes(1, 2, 1), _bytes(0, 4, 2))


def _content(read: object) -> object:
    """Return what a reader returned in a form that compares."""
    if isinstance(read, Holdings):
        return [read.client.tolist(), read.state.tolist(), read.due.tolist()]
    assert isinstance(read, tuple)
    rows, about = read
    columns = [rows.client.tolist(), rows.state.tolist(), rows.due.tolist(), rows.sent.tolist(), rows.lane.tolist()]
    return [columns, {name: about[name] for name in ABOUT}]


def _snapshot(path: Path) -> Callable[[], object]:
    digest = tables.write_snapshot(path, _holdings())
    return lambda: _content(tables.read_snapshot(path, digest))


def _plan(path: Path) -> Callable[[], object]:
    tables.write_plan(path, _rows(), ABOUT)
    return lambda: _content(tables.read_plan(path))


KINDS = {"snapshot": _snapshot, "plan": _plan}
kinds = pytest.mark.parametrize("kind", KINDS)


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    """All ids and bytes, with a digest that is the content's alone."""
    path = tmp_path / "1.parquet"
    digest = tables.write_snapshot(path, _holdings())
    assert digest == tables.digest_of(_holdings())
    assert _content(tables.read_snapshot(path, digest)) == _content(_holdings())
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    """In sending order, with what its reader was to know."""
    path = tmp_path / "plan.parquet"
    tables.write_plan(path, _rows(), ABOUT)
    assert _content(tables.read_plan(path)) == _content((_rows(), ABOUT))
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_rows_are_content_too(tmp_path: Path) -> None:
    """An empty snapshot and an empty plan are read back empty."""
    none = Holdings(np.zeros(0, np.int32), _bytes(), _bytes())
    digest = tables.write_snapshot(tmp_path / "s", none)
    assert len(tables.read_snapshot(tmp_path / "s", digest)) == 0
    tables.write_plan(tmp_path / "p", Rows(none.client, *(_bytes() for _ in range(4))), {})
    assert len(tables.read_plan(tmp_path / "p")[0]) == 0


def test_many_rows_are_read_over_several_groups(tmp_path: Path) -> None:
    """A snapshot that is larger than a row group keeps its order."""
    count = (1 << 20) + 5
    rng = np.random.default_rng(1)
    state = rng.integers(0, 256, count, np.uint8)
    whole = Holdings(np.arange(1, count + 1, dtype=np.int32), state, state[::-1].copy())
    digest = tables.write_snapshot(tmp_path / "s", whole)
    found = tables.read_snapshot(tmp_path / "s", digest)
    assert np.array_equal(found.client, whole.client)
    assert np.array_equal(found.state, whole.state)
    assert np.array_equal(found.due, whole.due)


def test_each_content_has_its_own_digest() -> None:
    """State and Due that change places, or a client that does, are another snapshot."""
    one = _holdings()
    others = [
        Holdings(one.client, one.due, one.state),
        Holdings(one.client[::-1], one.state, one.due),
        Holdings(one.client[:2], one.state[:2], one.due[:2]),
    ]
    assert len({tables.digest_of(each) for each in [one, *others]}) == 4


def test_a_snapshot_that_the_ledger_does_not_name_is_refused(tmp_path: Path) -> None:
    """An older file under the current name is whole and wrong."""
    tables.write_snapshot(tmp_path / "2.parquet", _holdings())
    with pytest.raises(StateDamagedError, match=r"2\.parquet.*another snapshot"):
        tables.read_snapshot(tmp_path / "2.parquet", "0" * 64)


@kinds
def test_every_truncation_is_refused(tmp_path: Path, kind: str) -> None:
    """A file that lost its end, at any byte, is damaged; it never reads as fewer rows."""
    path = tmp_path / "a.parquet"
    read = KINDS[kind](path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(StateDamagedError, match=r"a\.parquet: damaged"):
            read()


@kinds
def test_every_flipped_byte_is_refused_or_harmless(tmp_path: Path, kind: str) -> None:
    """A byte that changed, anywhere, never makes other content; nor does it end in anything but damage."""
    path = tmp_path / "a.parquet"
    read = KINDS[kind](path)
    expected, whole = read(), path.read_bytes()
    rng = random.Random(1)
    refused = 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= rng.choice([0xFF, *(1 << bit for bit in range(8))])
        path.write_bytes(flipped)
        try:
            assert read() == expected, f"byte {place}"
        except StateDamagedError:
            refused += 1
    assert refused > len(whole) / 3


@kinds
def test_a_newer_version_is_refused(tmp_path: Path, kind: str) -> None:
    """What a newer program wrote is not guessed at."""
    path = tmp_path / "a.parquet"
    read = KINDS[kind](path)
    table = pq.read_table(path)
    key = b"consent-sync"
    about = json.loads(table.schema.metadata[key]) | {"version": 2}
    pq.write_table(table.replace_schema_metadata({key: json.dumps(about).encode()}), path)
    with pytest.raises(StateDamagedError, match="version 2 of the format; this program knows 1"):
        read()


@kinds
def test_another_kind_of_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A plan is no snapshot, a snapshot no plan, and an export neither."""
    path = tmp_path / "a.parquet"
    read = KINDS[kind](path)
    next(other for name, other in KINDS.items() if name != kind)(path)
    with pytest.raises(StateDamagedError, match=f"not a {kind} of consent-sync"):
        read()
    pq.write_table(pa.table({"Client": [1], "AllowSms": [True]}), path)
    with pytest.raises(StateDamagedError, match=f"not a {kind} of consent-sync"):
        read()


@kinds
@pytest.mark.parametrize("content", [b"", b"PAR1", b"Client,AllowSms\n1,true\n", bytes(1000)])
def test_what_is_no_parquet_is_refused(tmp_path: Path, kind: str, content: bytes) -> None:
    """Whatever lies there."""
    path = tmp_path / "a.parquet"
    read = KINDS[kind](path)
    path.write_bytes(content)
    with pytest.raises(StateDamagedError, match=r"a\.parquet: damaged"):
        read()


@kinds
def test_a_missing_file_is_refused(tmp_path: Path, kind: str) -> None:
    """It is named."""
    path = tmp_path / "a.parquet"
    read = KINDS[kind](path)
    path.unlink()
    with pytest.raises(StateDamagedError, match=r"a\.parquet: damaged \(it is missing\)"):
        read()
