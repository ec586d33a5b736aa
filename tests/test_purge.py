"""What names clients in old reports goes, by the clock of the reports; summaries stay, and nothing of anybody else."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sync_job
from sync_job.errors import BusyError, NoStateError, StorageError
from sync_job.ledger import lock
from sync_job.report import kept
from sync_job.runs import history, purging
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop, people
from tests.test_files import small_disk

DAY_S = 86400.0
FILES = ("results.csv", "rejects.csv", "held.csv", "blocked.csv", "absent.csv", "duplicates.csv", "notes by hand.txt")


@pytest.fixture(scope="module")
def platform() -> Iterator[Standin]:
    """Return a platform that takes everything."""
    with running(Options()) as standin:
        yield standin


@pytest.fixture
def shop(tmp_path: Path, platform: Standin) -> Shop:
    """Return a shop with the report of its first run."""
    shop = Shop(tmp_path, platform.url)
    shop.write(people(20))
    shop.init()
    return shop


def _report(shop: Shop, days: float, *, number: int = 2, target: str | None = "own", ended: bool = True) -> Path:
    when = time.time() - days * DAY_S
    folder = shop.folder / "reports" / f"{number:04d}-{datetime.fromtimestamp(when, UTC):%Y%m%dT%H%M%SZ}"
    folder.mkdir(0o700)
    for name in FILES:
        (folder / name).write_text("Client\n1000\n")
    if target is not None:
        said = {"target": shop.settings.endpoint.target if target == "own" else target}
        (folder / "summary.json").write_text(json.dumps(said | ({"ended": when} if ended else {})))
    return folder


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize("ended", [True, False])
def test_what_names_clients_goes_and_the_summary_stays(shop: Shop, ended: bool) -> None:
    """Everything but `summary.json`, whoever put it there; what is younger stays whole."""
    old, young = _report(shop, 101, ended=ended), _report(shop, 99, number=3, ended=ended)
    found = purging.purge(shop.settings)
    assert _names(old) == {"summary.json"}
    assert _names(young) == {*FILES, "summary.json"}
    assert (found["reports"], found["files"]) == (1, len(FILES))
    assert purging.purge(shop.settings)["reports"] == 0


def test_every_run_does_it_for_its_own_target(shop: Shop) -> None:
    """Without a word, and another target's reports in the same folder are left to it."""
    old, other = _report(shop, 101), _report(shop, 101, number=3, target="elsewhere operator 7")
    report = sync_job.run(shop.settings)
    assert report.exit_code == 0
    assert report.summary["reasons"] == []
    assert _names(old) == {"summary.json"}
    assert _names(other) == {*FILES, "summary.json"}


def test_the_files_own_times_say_nothing(shop: Shop) -> None:
    """A copy is young and a report is old; a clock that was set back is no reason to remove what is from then."""
    old, future = _report(shop, 101), _report(shop, -400, number=3)
    for path in (future, *future.iterdir()):
        os.utime(path, (0, 0))
    purging.purge(shop.settings)
    assert _names(old) == {"summary.json"}
    assert _names(future) == {*FILES, "summary.json"}


@pytest.mark.parametrize("name", ["notes", "0002-x", "0002-20259999T000000Z", "compare-"])
def test_what_does_not_say_when_it_was_stays(shop: Shop, name: str) -> None:
    """Nobody knows that it is old."""
    folder = shop.folder / "reports" / name
    folder.mkdir()
    (folder / "results.csv").touch()
    purging.purge(shop.settings)
    assert _names(folder) == {"results.csv"}


def test_a_report_without_a_summary_is_its_runs(shop: Shop) -> None:
    """One that is named as a run of this state goes whole; one that is not may be another target's."""
    stranger = _report(shop, 300, number=9, target=None)
    with shop.state(write=True) as state:
        run = state.ledger.begin("run", 1.0, "20250101T000000Z")
        state.ledger.report(run, 0, {}, [])
    mine = shop.folder / "reports" / run
    mine.mkdir()
    (mine / "results.csv").touch()
    purging.purge(shop.settings)
    assert not mine.exists()
    assert _names(stranger) == {*FILES}


def test_keep_days_is_what_counts(shop: Shop, cli: Cli) -> None:
    """From the configuration; the command says what it removed, in words and as JSON."""
    shop.config.write_text(shop.config.read_text() + "[report]\nkeep_days = 7\n")
    old = _report(shop, 8)
    said = cli("purge", "--config", shop.config, "--json")
    assert json.loads(said.out)["reports"] == 1
    assert _names(old) == {"summary.json"}
    assert cli("purge", "--config", shop.config) == (0, "nothing is older than 7 days\n", said.err)


def test_a_history_lacks_what_was_removed(shop: Shop) -> None:
    """It goes on without those runs."""
    sync_job.run(shop.settings)
    (folder,) = (shop.folder / "reports").glob("0002-*")
    assert history.history(shop.settings, 1000)["sent"]
    said = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(said | {"ended": 1.0}))
    purging.purge(shop.settings)
    assert history.history(shop.settings, 1000)["sent"] == []


@contextlib.contextmanager
def _stuck(folder: Path) -> Iterator[None]:
    """Let something in a folder be what nobody can remove: a disk where root may do all, else a mode."""
    if os.geteuid() == 0:
        with small_disk(folder / "disk", 1 << 16):
            yield
        return
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


def test_a_run_does_not_fail_of_it(shop: Shop) -> None:
    """Its report says what stays, and why; the command ends in 4."""
    with _stuck(_report(shop, 101)):
        report = sync_job.run(shop.settings)
        assert report.exit_code == 0
        assert "older than 100 days stay" in report.summary["reasons"][0]
        with pytest.raises(StorageError):
            purging.purge(shop.settings)


def test_it_waits_for_no_run_and_makes_no_state(shop: Shop, tmp_path: Path) -> None:
    """A run that is under way does it itself."""
    with lock.held(shop.settings.state.path), pytest.raises(BusyError):
        purging.purge(shop.settings)
    (tmp_path / "two").mkdir()
    with pytest.raises(NoStateError):
        purging.purge(Shop(tmp_path / "two", "http://127.0.0.1:9").settings)
    assert _names(tmp_path / "two") == {"config.toml"}


@given(days=st.lists(st.integers(-500, 500), max_size=6), keep=st.integers(1, 400))
def test_older_is_older_by_the_report_alone(
    tmp_path_factory: pytest.TempPathFactory, days: list[int], keep: int
) -> None:
    """Of any reports, just those from before the time."""
    now = 1_700_000_000.0
    path = tmp_path_factory.mktemp("reports")
    for number, age in enumerate(days):
        folder = path / f"{number:04d}-x"
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"target": "t", "ended": now - age * DAY_S}))
    found = kept.older_than(path, ["t"], now - keep * DAY_S, ())
    assert [int(folder.name[:4]) for folder in found] == [n for n, age in enumerate(days) if age > keep]
