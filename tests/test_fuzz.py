"""Damaged exports, of every dialect and format, do no harm (tests/fuzzing.py has the laws; `make fuzz` plays more)."""

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from sync_job.config import ExportSettings
from sync_job.exports import loader
from tests import fuzzing

MUTATIONS = 250


@pytest.mark.parametrize("name", sorted(fuzzing.corpus()))
def test_the_corpus_is_one_table_in_every_dialect_and_format(name: str) -> None:
    """Sound files grant what their rows say, all of them the same: otherwise the laws would hold for nothing."""
    export = loader.load(
        ExportSettings(as_of="none"), ZoneInfo("UTC"), where=str(fuzzing.CORPUS / name), first_look=True
    )
    assert (export.rows, export.clients, export.rejects, export.duplicates) == (7, 6, 0, 1)
    assert fuzzing.granted(export) == fuzzing.HELD


def test_damaged_bytes_are_read_or_refused_and_grant_nothing() -> None:
    """Cut, mutated and random bytes: no traceback, no hang, and no *allowed* that the sound file does not hold."""
    played, broken = fuzzing.watch(MUTATIONS, "suite")
    assert not broken, "\n".join(broken)
    assert played > 2 * MUTATIONS


def test_a_law_that_is_broken_is_seen(tmp_path: Path) -> None:
    """A grant that the sound file does not hold is one, unless the damaged text says so itself."""
    sound = fuzzing.corpus()["comma-utf8.csv"]
    other = sound.replace(b"1204,true", b"1209,true")
    export = fuzzing.read(tmp_path / "a", other)
    assert export
    assert not fuzzing.judge("a.csv", other, export, only_cut=False)
    assert "(1209, 'AllowSms')" in fuzzing.judge("a.csv", sound, export, only_cut=False)
    assert "(1209, 'AllowSms')" in fuzzing.judge("a.csv", other, export, only_cut=True)
    assert "(1209, 'AllowSms')" in fuzzing.judge("a.csv.gz", other, export, only_cut=False)
