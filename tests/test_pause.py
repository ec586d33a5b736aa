from pathlib import Path

import pytest

from sync_job.errors import BusyError, Exit, PausedError, StorageError
from sync_job.ledger import pause

NOON = 1_700_049_600.0  # 2023-11-15 12:00 UTC


def _pause(folder: Path, reason: str = "the platform is being migrated", by: str = "operations") -> None:
    pause.pause(folder, reason=reason, by=by, now=NOON)


def test_nothing_is_paused_by_itself(tmp_path: Path) -> None:
    """A folder without the file lets runs send, and so does one that is not there."""
    for folder in (tmp_path, tmp_path / "none"):
        assert pause.paused(folder) is None
        pause.refuse_if_paused(folder)
    assert pause.resume(tmp_path) is None


def test_a_pause_says_who_when_and_why(tmp_path: Path) -> None:
    """What was given comes back, to the letter."""
    _pause(tmp_path, reason='миграция "платформы"')
    assert pause.paused(tmp_path) == {"reason": 'миграция "платформы"', "by": "operations", "at": NOON}


def test_a_paused_target_refuses_as_busy(tmp_path: Path) -> None:
    """Cron takes it as another run's turn, and a person reads who, since when, why, and how it ends."""
    _pause(tmp_path)
    with pytest.raises(BusyError) as raised:
        pause.refuse_if_paused(tmp_path)
    assert isinstance(raised.value, PausedError)
    assert raised.value.exit_code is Exit.BUSY
    words = "paused by operations since 2023-11-15 12:00 UTC: the platform is being migrated. Nothing was sent."
    assert words in str(raised.value)
    assert "`consent-sync resume`" in str(raised.value)


def test_resume_ends_it_and_says_what_it_was(tmp_path: Path) -> None:
    """Afterwards runs send, and a second resume finds nothing."""
    _pause(tmp_path)
    assert pause.resume(tmp_path) == {"reason": "the platform is being migrated", "by": "operations", "at": NOON}
    assert list(tmp_path.iterdir()) == []
    pause.refuse_if_paused(tmp_path)
    assert pause.resume(tmp_path) is None


def test_the_file_is_private(tmp_path: Path) -> None:
    """It names a person: only this user reads it."""
    _pause(tmp_path)
    assert (tmp_path / "paused.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", "3", "{}", '{"reason": "r", "by": "b"}']
    + [
        f'{{"reason": "r", "by": "b", "at": {at}}}'
        for at in ('"x"', "null", "[]", "1e300", "-1e300", "NaN", "Infinity", "-Infinity", "1" + "0" * 400)
    ],
)
def test_a_damaged_file_pauses_with_a_word(tmp_path: Path, content: str) -> None:
    """Whoever wrote it meant it: in doubt nothing is sent, no time is invented, and resume mends it."""
    (tmp_path / "paused.json").write_text(content)
    with pytest.raises(PausedError, match=r"paused by somebody: paused\.json cannot be read"):
        pause.refuse_if_paused(tmp_path)
    assert pause.resume(tmp_path) is not None
    pause.refuse_if_paused(tmp_path)


def test_bytes_that_are_no_text_pause(tmp_path: Path) -> None:
    """A file that is no UTF-8 is damaged like any other."""
    (tmp_path / "paused.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PausedError, match="cannot be read"):
        pause.refuse_if_paused(tmp_path)


def test_a_pause_that_is_not_durable_is_an_error(tmp_path: Path) -> None:
    """Nobody is told that nothing will be sent when the folder did not take it."""
    with pytest.raises(StorageError, match=r"paused\.json"):
        _pause(tmp_path / "none")
