"""Disks that are full, read-only or broken, and a clock that was set back: what a state makes of them."""

import errno
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import sync_job
from sync_job.errors import StorageError
from sync_job.ledger import archive
from sync_job.runs import backups, drain, init, inspecting
from sync_job.runs.watch import Watch
from sync_job.standin.background import running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop, changed, expected, holds, people
from tests.test_files import small_disk


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Return a shop whose state was made, and whose platform is not there."""
    (tmp_path / "shop").mkdir()
    shop = Shop(tmp_path / "shop", "http://127.0.0.1:9")
    shop.write(people(3000))
    shop.init()
    return shop


def test_a_backup_to_a_full_disk_leaves_nothing(shop: Shop, tmp_path: Path) -> None:
    """Neither half of it nor what it was made from; the state is as it was."""
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        with pytest.raises(StorageError, match="make room"):
            backups.backup(shop.settings, disk / "b.tar")
        assert list(disk.iterdir()) == []
    assert inspecting.check(shop.settings)["exit"] == 0


def test_a_restore_to_a_full_disk_puts_nothing_into_place(shop: Shop, tmp_path: Path) -> None:
    """There is no state then, rather than half of one."""
    backups.backup(shop.settings, shop.folder / "b.tar")
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        shop.config.write_text(shop.config.read_text() + f'[state]\npath = "{disk / "state"}"\n')
        with pytest.raises(StorageError, match="make room"):
            backups.restore(shop.settings, shop.folder / "b.tar")
        assert list(disk.iterdir()) == []


def _failing(patched: pytest.MonkeyPatch, after: int) -> None:
    """Let every call of fsync but the first ones fail."""
    calls = itertools.count()
    fsync = os.fsync

    def fail(handle: int) -> None:
        if next(calls) >= after:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    patched.setattr(os, "fsync", fail)


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_an_fsync_that_fails_puts_nothing_into_place(shop: Shop, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Whichever of them fails: it is not there, or whole where only what comes after could not be made durable."""
    path = shop.folder / "b.tar"
    made, act = path, backups.backup
    if what == "restore":
        backups.backup(shop.settings, path)
        made, act = shop.settings.state.path, backups.restore
        shutil.rmtree(made)
    there: list[bool] = []
    for after in itertools.count():
        with monkeypatch.context() as patched:
            _failing(patched, after)
            try:
                act(shop.settings, path)
                break
            except StorageError:
                there.append(made.exists())
        if there[-1] and what == "backup":
            with archive.unpacked(path, shop.folder / "elsewhere", shop.settings.endpoint.target):
                made.unlink()
        elif there[-1]:
            assert inspecting.check(shop.settings)["exit"] == 0
            shutil.rmtree(made)
    assert len(there) > 3
    assert there == sorted(there)
    assert not there[0]
    assert inspecting.check(shop.settings)["exit"] == 0


def test_a_read_only_disk_can_be_looked_at(tmp_path: Path, cli: Cli) -> None:
    """`check` and `backup` work there; what has to write ends in 4 and says what to do; nothing is lost by it."""
    (tmp_path / "shop").mkdir()
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        shop = Shop(tmp_path / "shop", "http://127.0.0.1:9")
        shop.config.write_text(
            shop.config.read_text() + f'[state]\npath = "{disk / "state"}"\nkeys = "{disk / "keys"}"\n'
        )
        shop.write(people(20))
        init.init(shop.settings, "empty", lambda grants: grants, Watch())
        (disk / "state" / ".running.json.new").touch(0o600)
        mount = shutil.which("mount")
        assert mount
        subprocess.run([mount, "-o", "remount,ro", disk], check=True)
        try:
            assert inspecting.check(shop.settings)["counts"]["orphan"] == 1
            backups.backup(shop.settings, shop.folder / "b.tar")
            for command in (("run",), ("drain",), ("state", "repair"), ("purge",)):
                said = cli(*command, "--config", shop.config)
                assert (said.code, "writable" in said.err) == (4, True), said
        finally:
            subprocess.run([mount, "-o", "remount,rw", disk], check=True)
        assert cli("state", "repair", "--config", shop.config).code == 0


def test_a_clock_that_was_set_back_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three days back: runs are numbered on, what changes is sent, lists are sent, nothing is purged or an orphan."""
    first = people(100)
    second = changed(first, 0.5)
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url, linger_s=0)
        shop.write(first)
        shop.init()
        sync_job.run(shop.settings)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3 * 86400)
        shop.write(second)
        assert sync_job.run(shop.settings).exit_code == 0
        assert holds(platform.platform) == expected(first, second)
        shop.withdraw({1005: "all"}, received_at=time.time() - 60)
        report = drain.drain(shop.settings, "drain", Watch())
        assert report is not None
        assert report.exit_code == 0
        assert holds(platform.platform)[1005] == (False,) * 4
        with shop.state() as state:
            assert [run.number for run in state.ledger.runs()] == [1, 2, 3, 4]
        checked = inspecting.check(shop.settings)
        assert {"ok"} == {verdict for verdict, count in checked["counts"].items() if count}
        assert (checked["exit"], "runs.started" in checked["from_the_future"]) == (1, True)
        assert all((folder / "summary.json").exists() for folder in (tmp_path / "reports").iterdir())
