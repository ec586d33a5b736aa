"""A backup may be taken at any moment, and whatever it holds, a state that is restored from it never says too much."""

import hashlib
import io
import json
import random
import shutil
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sync_job
from sync_job.errors import BusyError, ConfigError, ForeignStateError, RestoredStateError, StateDamagedError, StateError
from sync_job.ledger import archive, lock
from sync_job.ledger import pause as pauses
from sync_job.runs import backups, inspecting, restoring
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.forked import Forked
from tests.shop import Shop, changed, expected, holds, people

CLIENTS = 300


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Return a shop whose state was made and whose platform is not there."""
    shop = Shop(tmp_path, "http://127.0.0.1:9")
    shop.write(people(20))
    shop.init()
    return shop


def _tree(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


def test_what_is_restored_is_what_was_backed_up(shop: Shop) -> None:
    """Ledger, the snapshot that counts, lists in the inbox and the pause; the state is sound, and made durable."""
    shop.withdraw({1003: "all"})
    pauses.pause(shop.settings.state.path, reason="moving", by="me", now=time.time())
    before = _tree(shop.folder / "state")
    made = backups.backup(shop.settings, shop.folder / "b.tar")
    assert _tree(shop.folder / "state") == before
    assert (shop.folder / "b.tar").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in shop.folder.glob(".*")) == []
    (shop.folder / "state").rename(shop.folder / "old")
    found = backups.restore(shop.settings, shop.folder / "b.tar")
    assert found["run"] == made["run"] == 1
    assert found["lists_waiting"] == 1
    assert found["paused"]["by"] == "me"
    after = _tree(shop.folder / "state")
    assert {name: after[name] for name in after if name != "ledger.db"} == {
        name: content for name, content in before.items() if name not in ("ledger.db", "running.json")
    }
    assert inspecting.check(shop.settings)["exit"] == 0
    assert not list(shop.folder.glob(".*"))


def test_the_keys_are_not_in_it(shop: Shop) -> None:
    """With them nobody could tell that the state is old; nor does anything lie in it that a state does not have."""
    (shop.folder / "state" / "notes.txt").write_text("mine")
    backups.backup(shop.settings, shop.folder / "b.tar")
    with tarfile.open(shop.folder / "b.tar") as tar:
        names = tar.getnames()
        assert all(member.mode == 0o600 and member.isreg() for member in tar)
    assert names == ["manifest.json", "ledger.db", "snapshots/1.parquet"]


@pytest.mark.parametrize("place", ["state/b.tar", "keys/b.tar", "b.tar", "none/b.tar"])
def test_a_backup_goes_to_a_place_of_its_own(shop: Shop, place: str) -> None:
    """Neither into the state nor beside the keys, nor over another file."""
    (shop.folder / "b.tar").write_text("something else")
    with pytest.raises(ConfigError):
        backups.backup(shop.settings, shop.folder / place)
    assert (shop.folder / "b.tar").read_text() == "something else"


def test_what_a_dead_backup_left_is_swept(shop: Shop) -> None:
    """The next of its name begins by removing it, and two at once do not write into each other's."""
    parts = shop.folder / ".b.tar.parts"
    parts.mkdir(0o700)
    (parts / "ledger.db").write_text("half")
    with lock.held(parts), pytest.raises(BusyError):
        backups.backup(shop.settings, shop.folder / "b.tar")
    backups.backup(shop.settings, shop.folder / "b.tar")
    assert not parts.exists()


def test_what_a_dead_backup_of_another_name_left_is_swept(shop: Shop) -> None:
    """A copy of a state stays nowhere for good; one that is being made stays, and so does what is no backup's."""
    dead, made, others = (shop.folder / f".{name}.parts" for name in ("2026-11-01.tar", "2026-11-02.tar", "engine"))
    for parts in (dead, made, others):
        parts.mkdir(0o700)
        (parts / "ledger.db").write_text("half")
    with lock.held(dead):
        pass
    with lock.held(made):
        backups.backup(shop.settings, shop.folder / "2026-11-03.tar")
        assert [parts.exists() for parts in (dead, made, others)] == [False, True, True]
    assert not list(shop.folder.glob(".2026-11-03*"))


def test_a_damaged_state_is_not_backed_up(shop: Shop) -> None:
    """A backup that cannot be restored would be found out too late."""
    path = shop.folder / "state" / "snapshots" / "1.parquet"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StateDamagedError, match=r"1\.parquet"):
        backups.backup(shop.settings, shop.folder / "b.tar")
    assert not (shop.folder / "b.tar").exists()


def test_a_list_that_cannot_be_read_is_backed_up_as_it_is(shop: Shop) -> None:
    """It may be an opt-out: runs wait for it, and backups do not."""
    for name in ("damaged.parquet", ".unreadable-other.parquet"):
        (shop.folder / "state" / "inbox" / name).write_text("x")
    backups.backup(shop.settings, shop.folder / "b.tar")
    shutil.rmtree(shop.folder / "state")
    backups.restore(shop.settings, shop.folder / "b.tar")
    assert (shop.folder / "state" / "inbox" / "damaged.parquet").read_text() == "x"
    assert (shop.folder / "state" / "inbox" / ".unreadable-other.parquet").read_text() == "x"


def test_state_is_never_restored_over_state(shop: Shop) -> None:
    """The message says which way is open; an empty folder is no state."""
    backups.backup(shop.settings, shop.folder / "b.tar")
    before = _tree(shop.folder / "state")
    with pytest.raises(StateError, match="Move it away"):
        backups.restore(shop.settings, shop.folder / "b.tar")
    assert _tree(shop.folder / "state") == before
    shutil.rmtree(shop.folder / "state")
    (shop.folder / "state").mkdir(0o700)
    backups.restore(shop.settings, shop.folder / "b.tar")
    assert inspecting.check(shop.settings)["exit"] == 0


def test_another_targets_backup_is_refused(shop: Shop, tmp_path: Path) -> None:
    """Nothing is put into place."""
    backups.backup(shop.settings, shop.folder / "b.tar")
    (tmp_path / "two").mkdir()
    other = Shop(tmp_path / "two", "http://127.0.0.1:10")
    with pytest.raises(ForeignStateError, match="retarget"):
        backups.restore(other.settings, shop.folder / "b.tar")
    assert sorted(path.name for path in other.folder.iterdir()) == ["config.toml"]


def test_the_commands_say_what_comes_next(shop: Shop, cli: Cli) -> None:
    """Where the keys are that are not in it; and what a person has to say before anybody is granted anything."""
    said = cli("state", "backup", shop.folder / "b.tar", "--config", shop.config)
    assert said.code == 0
    assert str(shop.settings.state.keys) in said.out
    shutil.rmtree(shop.settings.state.path)
    assert cli("state", "restore", shop.folder / "none.tar", "--config", shop.config).code == 2
    said = cli("state", "restore", shop.folder / "b.tar", "--config", shop.config)
    assert said.code == 0
    assert "consent-sync state restored --withdrawals-since LIST --by NAME, or --none" in said.out
    assert "restored backup" in cli("status", "--config", shop.config).out
    assert cli("state", "restore", shop.folder / "b.tar", "--config", shop.config).code == 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, bytes]:
    """Return a shop without state, and its backup."""
    shop = Shop(tmp_path_factory.mktemp("whole"), "http://127.0.0.1:9")
    shop.write(people(20))
    shop.init()
    shop.withdraw({1003: "all"})
    backups.backup(shop.settings, shop.folder / "b.tar")
    shutil.rmtree(shop.folder / "state")
    return shop, (shop.folder / "b.tar").read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_backup_is_refused_or_changes_nothing(whole: tuple[Shop, bytes], data: st.DataObject) -> None:
    """Cut anywhere, or with any byte changed: it is refused, and no state is made, or every member is what it was."""
    shop, content = whole
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        harmed = content[:place]
    else:
        harmed = content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
    path = shop.folder / "harmed.tar"
    path.write_bytes(harmed)
    try:
        with archive.unpacked(path, shop.settings.state.path, shop.settings.endpoint.target) as (parts, manifest):
            for name, (size, digest) in manifest.members.items():
                assert archive.digest(parts / name) == (size, digest)
            assert {*manifest.members} >= {"ledger.db", "snapshots/1.parquet"}
    except (StateDamagedError, ForeignStateError):
        pass
    assert not shop.settings.state.path.exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "runs/../../evil", "inbox/..", "lock", "runs/x/1/evil"])
def test_a_member_that_no_state_has_is_refused(whole: tuple[Shop, bytes], name: str) -> None:
    """Whoever made the manifest: nothing is written anywhere but where a state has files."""
    shop, content = whole
    path = shop.folder / "evil.tar"
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(path, "w") as new:
        members = {member.name: old.extractfile(member).read() for member in old}  # type: ignore[union-attr]
        said = json.loads(members.pop("manifest.json"))
        members[name] = b"evil"
        said["members"][name] = [4, hashlib.sha256(b"evil").hexdigest()]
        del said["seal"]
        said["seal"] = archive.seal(said)
        for one, body in {"manifest.json": json.dumps(said).encode(), **members}.items():
            info = tarfile.TarInfo(one)
            info.size = len(body)
            new.addfile(info, io.BytesIO(body))
    with pytest.raises(StateDamagedError, match="not what the manifest says"):
        backups.restore(shop.settings, path)
    assert not list(shop.folder.parent.rglob("evil"))
    assert not shop.settings.state.path.exists()


def test_a_restored_state_waits_for_a_person(tmp_path: Path) -> None:
    """Even one that is as new as its anchor: a list that came in since would be lost, and nobody would know."""
    first = people(200)
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(first)
        shop.init()
        sync_job.run(shop.settings)
        backups.backup(shop.settings, tmp_path / "b.tar")
        shop.withdraw({1001: "all"})  # and the disk is lost before any run has seen it
        shutil.rmtree(tmp_path / "state")
        found = backups.restore(shop.settings, tmp_path / "b.tar")
        assert found["standing"] == "older"
        second = first | dict.fromkeys(range(1100, 1150), (True,) * 4)
        shop.write(second)
        report = sync_job.run(shop.settings)
        assert report.summary["restrict_only"]
        assert not any(
            flag for entry in platform.platform.log[-report.summary["planned"] :] for flag in entry.flags if flag
        )
        since = shop.listing({1001: "all"})
        restoring.restored(shop.settings, since, "me", Watch())
        time.sleep(0.25)
        for _ in range(2):
            sync_job.run(shop.settings)
            time.sleep(0.25)
        held = holds(platform.platform)
        wanted = expected(first, second)
        wanted[1001] = (False,) * 4
        assert held == wanted


def _whole_run(shop: Shop) -> Forked:
    return Forked("run", "--config", shop.config, stderr=subprocess.PIPE)


def test_a_backup_taken_at_any_moment_of_a_run_restores(tmp_path: Path) -> None:
    """While a run sends and a list comes in: each backup, restored, ends with the platform as it should be.

    Who was on the list by then is in the backup's inbox or ledger, is denied, and stays so.
    """
    first = people(CLIENTS)
    second = changed(first, 0.8)
    with running(Options(latency_ms=2)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=4, linger_s=0.1)
        shop.write(first)
        shop.init("equal")
        shop.write(second)
        process = _whole_run(shop)
        taken: list[tuple[Path, set[int]]] = []
        withdrawn: set[int] = set()
        rng = random.Random(3)
        while process.poll() is None:
            time.sleep(0.002)
            if platform.requests and len(taken) < 12:
                listed = set(withdrawn)
                path = tmp_path / f"{len(taken)}.tar"
                backups.backup(shop.settings, path)
                taken.append((path, listed))
                if len(withdrawn) < 5:
                    one = rng.choice(sorted(second.keys() - withdrawn))
                    shop.withdraw({one: "all"})
                    withdrawn.add(one)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        sending = [one for one in taken if _unfinished(one[0])]
        assert sending, "no backup was taken while a leg was sent"
        shutil.copytree(tmp_path / "keys", tmp_path / "keys-then")
        for path, listed in [*rng.sample(sending, min(2, len(sending))), taken[-1]]:
            for name in ("state", "keys"):
                shutil.rmtree(tmp_path / name)
            shutil.copytree(tmp_path / "keys-then", tmp_path / "keys")
            found = backups.restore(shop.settings, path)
            counts = inspecting.check(shop.settings)["counts"]
            assert not counts["orphan"], counts
            assert found["lacking"] - found["lists_waiting"] <= len(withdrawn - listed)
            sent = len(platform.platform.log)
            _end_well(shop, withdrawn - listed, found["lacking"])
            for entry in platform.platform.log[sent:]:
                assert entry.client not in listed or not any(entry.flags), "who withdrew was granted something"
            _is_right(platform, first, second, withdrawn)


def test_what_was_sent_after_the_backup_is_taken_back(tmp_path: Path) -> None:
    """The run that was under way died with its disk, and the anchor never heard of what it granted by then."""
    denied = dict.fromkeys(range(1, 400), (False,) * 4)
    with running(Options(latency_ms=2)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=4, linger_s=0.1)
        shop.write(denied)
        shop.init("equal")
        shop.write(dict.fromkeys(denied, (True,) * 4))
        process = _whole_run(shop)
        _wait_for(lambda: platform.requests > 20)
        backups.backup(shop.settings, tmp_path / "b.tar")
        at_backup = platform.requests
        _wait_for(lambda: platform.requests > at_backup + 100)
        process.kill()
        process.communicate()
        _is_whole_of_a_dead_run(shop)
        shutil.rmtree(tmp_path / "state")
        assert backups.restore(shop.settings, tmp_path / "b.tar")["unfinished"]
        shop.write(denied)
        restoring.restored(shop.settings, None, "me", Watch())
        sync_job.run(shop.settings)
        assert not any(any(flags) for flags in holds(platform.platform).values())


def _is_whole_of_a_dead_run(shop: Shop) -> None:
    """Hold that a journal which a dead process left, part of it in its log, is as whole in a backup as in its place."""
    before = _tree(shop.folder / "state")
    backups.backup(shop.settings, shop.folder / "dead.tar")
    after = _tree(shop.folder / "state")
    assert {name for name in after if after[name] != before.get(name)} <= {one for one in after if one.endswith("-shm")}
    (journal,) = (shop.folder / "state").rglob("journal.db")
    with archive.unpacked(shop.folder / "dead.tar", shop.folder / "else", shop.settings.endpoint.target) as (parts, _):
        for path in journal.parent.glob("journal.db*"):
            shutil.copy(path, parts)
        dumps = []
        for path in (parts / "journal.db", parts / journal.relative_to(shop.folder / "state")):
            db = sqlite3.connect(path)
            dumps.append(list(db.iterdump()))
            db.close()
    assert dumps[0] == dumps[1]
    assert len(dumps[0]) > 20


def _wait_for(moment: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not moment() and time.monotonic() < deadline:
        time.sleep(0.001)


def _unfinished(path: Path) -> bool:
    with tarfile.open(path) as tar:
        return any(name.endswith("journal.db") for name in tar.getnames())


def _end_well(shop: Shop, since: set[int], lacking: int) -> None:
    """Run as it is after a restore: once as it comes, then with what the person says, then until nobody lingers."""
    if lacking:
        with pytest.raises(RestoredStateError):
            sync_job.run(shop.settings)
    else:
        assert sync_job.run(shop.settings).summary["restrict_only"]
    restoring.restored(shop.settings, shop.listing(dict.fromkeys(since, "all")) if since else None, "me", Watch())
    for _ in range(2):
        time.sleep(0.15)
        report = sync_job.run(shop.settings)
    assert report.summary["outcomes"] == {
        "delivered": report.summary["planned"],
        "refused": 0,
        "exhausted": 0,
        "deferred": 0,
    }
    with shop.state() as state:
        assert not state.holdings().due.any()


def _is_right(
    platform: Standin,
    first: dict[int, tuple[bool | None, ...]],
    second: dict[int, tuple[bool | None, ...]],
    withdrawn: set[int],
) -> None:
    held = holds(platform.platform)
    for client, flags in second.items():
        for place, flag in enumerate(flags):
            there = held.get(client, (None,) * 4)[place]
            if client in withdrawn:
                assert there is False
            elif flag is not None and flag is not first[client][place]:
                assert there is flag
            else:
                assert there in (None, flag, first[client][place])
