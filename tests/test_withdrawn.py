"""The codes of who withdrew: nobody leaves them but by erasure, and they say of a ledger whom it lacks."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent.channels import SHIFTS
from sync_job.errors import StateDamagedError
from sync_job.ledger import claims
from sync_job.ledger.claims import Claims
from sync_job.ledger.withdrawn import Withdrawn

TARGET = "https://loyalty.example/api operator 7"
Rows = list[tuple[int, int, int]]
rows = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(SHIFTS), st.integers(1, 5)), max_size=8)


def _claims(said: Rows, lifted: Rows = []) -> Claims:  # noqa: B006 - not changed
    """Return what a ledger knows with these withdrawals and re-consents, each of a client, a channel and a time."""
    found = claims.named(
        np.array([row[0] for row in said], np.int32),
        np.array([1 << row[1] for row in said], np.uint8),
        np.array([float(row[2]) for row in said]),
    )
    granted = np.zeros_like(found.granted)
    for client, shift, at in lifted:
        here = np.flatnonzero(found.client == client)
        granted[here, SHIFTS.index(shift)] = np.maximum(granted[here, SHIFTS.index(shift)], at)
    in_force = np.zeros(len(found.client), np.uint8)
    for column, shift in enumerate(SHIFTS):
        stands = (found.withdrawn[:, column] != 0) & (found.withdrawn[:, column] >= granted[:, column])
        in_force |= stands.astype(np.uint8) << np.uint8(shift)
    return Claims(found.client, found.withdrawn, granted, in_force)


def _entered(keys: Path, *lists: Rows) -> Withdrawn:
    codes = Withdrawn.open(keys, TARGET, None)
    for said in lists:
        found = _claims(said)
        codes = codes.with_(keys, found.client, found.withdrawn)
    return codes


@settings(max_examples=40)
@given(rows, rows, rows)
def test_who_is_missing_is_who_may_be_allowed_and_withdrew(before: Rows, since: Rows, lifted: Rows) -> None:
    """By a plain dictionary: the newest withdrawal of a channel is neither known nor lifted, nor is it denied."""
    with tempfile.TemporaryDirectory() as made:
        keys = Path(made) / "keys"
        codes = _entered(keys, before, since)
        known = _claims(before, lifted)
        missing = codes.recognise(np.arange(1, 7, dtype=np.int32), codes.missing(known))
    newest: dict[tuple[int, int], int] = {}
    for client, shift, at in before + since:
        newest[client, shift] = max(at, newest.get((client, shift), 0))
    expected = set()
    for (client, shift), at in newest.items():
        had = max([row[2] for row in before if row[:2] == (client, shift)], default=0)
        withdrew = any(row[0] == client for row in before)  # others' evidence is of no use, and no ledger has it
        again = max([row[2] for row in lifted if row[:2] == (client, shift)], default=0) if withdrew else 0
        denied = had and had >= again
        if had < at >= again and not denied:
            expected.add((client, shift, at))
    found = {
        (client, shift, int(at))
        for client, channels, at in zip(*(column.tolist() for column in missing), strict=True)
        for shift in SHIFTS
        if channels >> shift & 1
    }
    assert found == expected


@settings(max_examples=20)
@given(rows, rows, st.sets(st.integers(1, 6)))
def test_it_is_read_as_it_was_written_in_whatever_order_lists_came(one: Rows, two: Rows, gone: set[int]) -> None:
    """The same entries either way; the erased are in it no more, and all others are."""
    with tempfile.TemporaryDirectory() as made:
        keys = Path(made) / "keys"
        codes, other = _entered(keys, one, two), _entered(keys, two, one)
        assert codes.entries.tobytes() == other.entries.tobytes()
        after = codes.without(np.array(sorted(gone), np.int32))
        assert len(after) == len({row[0] for row in one + two} - gone)
        if len(codes):
            after.write()
            read = Withdrawn.open(keys, TARGET, None)
            assert (read.edition, read.digest) == (after.edition, after.digest)
            assert read.entries.tobytes() == after.entries.tobytes()


def test_no_byte_of_it_changes_unseen(tmp_path: Path) -> None:
    """Whatever byte is another one, the file is refused."""
    codes = _entered(tmp_path / "keys", [(1, 0, 5), (2, 2, 6)])
    codes.write()
    whole = codes.path.read_bytes()
    for place in range(len(whole)):
        codes.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Exception, match=r"damaged|not the key"):
            Withdrawn.open(tmp_path / "keys", TARGET, None)
    codes.path.write_bytes(whole + whole[-25:])
    with pytest.raises(StateDamagedError, match="damaged"):
        Withdrawn.open(tmp_path / "keys", TARGET, None)


def test_whoever_is_named_is_unnamed_no_more(tmp_path: Path) -> None:
    """What is noted as unnamed is missing only to a state that begins anew, until a ledger knows of it."""
    codes = _entered(tmp_path / "keys", [(1, 0, 5), (2, 0, 5)])
    nothing = _claims([])
    codes = codes.unnaming(codes.missing(nothing))
    assert codes.unnamed() == 2
    assert not codes.missing(nothing).any()
    assert codes.missing(nothing, anew=True).all()
    late = _claims([(1, 0, 5)])
    codes = codes.with_(tmp_path / "keys", late.client, late.withdrawn)
    assert codes.unnamed() == 1
