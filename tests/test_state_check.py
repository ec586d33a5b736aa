"""Whatever is wrong on disk is found, what is right is not complained of, and only what is nobody's is removed."""

import json
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sync_job
from sync_job.consent.known import Holdings
from sync_job.errors import BusyError, NoStateError
from sync_job.ledger import anchor, lock, tables
from sync_job.ledger import pause as pauses
from sync_job.ledger.anchor import tag
from sync_job.runs import forgetting, inspecting
from sync_job.runs.watch import Watch
from sync_job.standin.background import running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.forked import Forked
from tests.shop import NO_GUARDS, Shop, people

OLD_S = 2 * 3600.0
_GUARDS = NO_GUARDS.replace("new_grants = 1000000", "new_grants = 3\nnew_grants_share = 0\nnew_grants_nights = 0")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shop's folder that has everything: snapshots, held rows, a dead run, lists, an erased one, a pause."""
    folder = tmp_path_factory.mktemp("lived")
    first = people(300)
    with running(Options(latency_ms=2)) as platform:
        shop = Shop(folder, platform.url, guards=_GUARDS, concurrency=4)
        shop.write(first)
        shop.init()
        shop.withdraw({1001: "all", 1002: "email"})
        sync_job.run(shop.settings)
        forgetting.forget(shop.settings, forgetting.clients(shop.settings, [1003], None), "R", Watch())
        sync_job.run(shop.settings)
        new = dict.fromkeys(range(5000, 5010), (True,) * 4)
        shop.write(dict.fromkeys(first, (False,) * 4) | new)
        before = platform.requests
        process = Forked("run", "--config", shop.config)
        _wait_for(lambda: platform.requests > before + 30)
        process.kill()
        process.communicate()
        shop.withdraw({1004: "all"})
        pauses.pause(shop.settings.state.path, reason="tests", by="me", now=time.time())
    return folder


def _wait_for(moment: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not moment() and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.fixture
def shop(lived: Path, tmp_path: Path) -> Shop:
    """Return a copy of the shop that lived."""
    shutil.copytree(lived, tmp_path / "shop")
    url = (lived / "config.toml").read_text().split('base_url = "')[1].split('"')[0]
    return Shop(tmp_path / "shop", url, guards=_GUARDS, concurrency=4)


def _found(shop: Shop, verdict: str) -> dict[str, str]:
    said = inspecting.check(shop.settings)
    return {one["what"]: one["words"] for one in said["things"] if one["verdict"] == verdict}


def _tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() and path.name != "lock" else b"",  # which says who took it last
        )
        for path in folder.rglob("*")
    }


def _one(shop: Shop, pattern: str) -> Path:
    return sorted(shop.folder.glob(pattern))[0]


def test_a_state_that_lived_is_sound(shop: Shop) -> None:
    """Each thing has its line; a dead run, a list that waits and a pause are no damage; nothing is changed on disk."""
    before = _tree(shop.folder)
    said = inspecting.check(shop.settings)
    assert _tree(shop.folder) == before
    assert [one for one in said["things"] if one["verdict"] != "ok"] == []
    assert said["exit"] == 0
    lines = {one["what"].split("/")[0] for one in said["things"]} | {one["what"] for one in said["things"]}
    assert lines >= {"ledger.db", "snapshots", "runs", "held", "inbox", "paused.json", "running.json", "keys"}
    target = tag(shop.settings.endpoint.target)
    assert f"keys/{target}.anchor.json" in lines
    assert f"keys/{target}.tombstones" in lines


def _add(place: str) -> Callable[[Shop], str]:
    def make(shop: Shop) -> str:
        path = shop.folder / place
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        path.touch(0o600)
        os.utime(path, (time.time() - OLD_S,) * 2)
        return place.removeprefix("state/")

    return make


def _add_folder(place: str, what: str) -> Callable[[Shop], str]:
    def make(shop: Shop) -> str:
        path = shop.folder / place
        path.parent.mkdir(0o700, exist_ok=True)
        path.mkdir(0o700)
        (path / "some.parquet").touch(0o600)
        os.utime(path, (time.time() - OLD_S,) * 2)
        return what

    return make


def _beyond_the_seven(shop: Shop) -> str:
    with sqlite3.connect(shop.folder / "state" / "ledger.db") as db:
        db.execute("INSERT INTO snapshots SELECT number + 20, digest, clients, made FROM snapshots")
    db.close()
    current = max((shop.folder / "state" / "snapshots").iterdir(), key=lambda path: int(path.stem))
    path = current.with_name(f"{int(current.stem) + 20}.parquet")
    shutil.copy(current, path)
    assert len(list(current.parent.iterdir())) == 2
    return f"snapshots/{current.name}"


def _unreadable_running(shop: Shop) -> str:
    (shop.folder / "state" / "running.json").write_text("{")
    return "running.json"


def _draft_of_a_key(shop: Shop) -> str:
    return _add(f"keys/.{tag(shop.settings.endpoint.target)}.anchor.json.new")(shop)


ORPHANS: dict[str, Callable[[Shop], str]] = {
    "a snapshot of a commit that died": _add("state/snapshots/99.parquet"),
    "a snapshot older than the last seven": _beyond_the_seven,
    "a run that was reported": _add_folder("state/runs/0001-x/1", "runs/0001-x"),
    "a run that nobody knows": _add_folder("state/runs/9999-x/1", "runs/9999-x"),
    "a snapshot that was being written": _add("state/snapshots/.99.parquet.new"),
    "an announcement that was being written": _add("state/.running.json.new"),
    "a pause that was being written": _add("state/.paused.json.new"),
    "a list that was being taken in": _add_folder("state/inbox/.tmpx", "inbox/.tmpx"),
    "held rows that nobody may approve": _add("state/held/0001-x.parquet"),
    "held rows that were being written": _add("state/held/.0001-x.parquet.new"),
    "the mark of a backfill that ended": _add("state/backfills/0001-x.parquet"),
    "an anchor that was being written": _draft_of_a_key,
    "a key that was being made": _add("keys/.tombstones.key.0123456789abcdef"),
    "an announcement that cannot be read": _unreadable_running,
}


@pytest.mark.parametrize("name", ORPHANS)
def test_an_orphan_is_found_and_removed_alone(shop: Shop, name: str) -> None:
    """Exit 1; `repair` removes it and nothing else, and the state is sound then."""
    sound = _tree(shop.folder)
    what = ORPHANS[name](shop)
    said = inspecting.check(shop.settings)
    assert {one["what"] for one in said["things"] if one["verdict"] == "orphan"} == {what}
    assert said["exit"] == 1
    before = _tree(shop.folder)
    done = inspecting.repair(shop.settings)
    assert [one["what"] for one in done["removed"]] == [what]
    assert (done["mended"], done["left"], done["exit"]) == ([], [], 0)
    after = _tree(shop.folder)
    gone = what if what.startswith("keys/") else f"state/{what}"
    assert {one for one in before if one not in after} == {
        one for one in before if one == gone or one.startswith(f"{gone}/")
    }
    assert {one: after[one] for one in after} == {one: before[one] for one in after}
    assert inspecting.check(shop.settings)["exit"] == 0
    assert sound.keys() - after.keys() <= {gone}


def test_what_somebody_may_be_writing_is_no_orphan(shop: Shop) -> None:
    """A list needs no lock: what is young, or from the future by a clock that was set back, is left alone."""
    for name, age_s in (("young", 0), ("future", -OLD_S)):
        path = shop.folder / "state" / "inbox" / f".{name}"
        path.mkdir(0o700)
        os.utime(path, (time.time() - age_s,) * 2)
    assert sorted(_found(shop, "in use")) == ["inbox/.future", "inbox/.young"]
    assert inspecting.repair(shop.settings)["removed"] == []


MODES = ["state", "state/ledger.db", "state/snapshots", "state/inbox", "state/lock", "keys", "keys/tombstones.key"]


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("mode", [0o755, 0o640])
def test_a_loose_mode_is_found_and_mended(shop: Shop, name: str, mode: int) -> None:
    """Exit 1 for it, and the content stays as it is."""
    path = shop.folder / name
    if path.is_dir():
        mode |= 0o100
    path.chmod(mode)
    said = inspecting.check(shop.settings)
    assert said["exit"] == 1
    assert said["counts"]["mode"] == 1
    done = inspecting.repair(shop.settings)
    assert len(done["mended"]) == 1
    assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert inspecting.check(shop.settings)["exit"] == 0


def _sql(query: str) -> Callable[[Shop], None]:
    def harm(shop: Shop) -> None:
        with sqlite3.connect(shop.folder / "state" / "ledger.db") as db:
            assert db.execute(query).rowcount
        db.close()

    return harm


def _cut(pattern: str) -> Callable[[Shop], None]:
    def harm(shop: Shop) -> None:
        path = _one(shop, pattern)
        path.write_bytes(path.read_bytes()[:-7])

    return harm


def _gone(pattern: str) -> Callable[[Shop], None]:
    def harm(shop: Shop) -> None:
        path = sorted(shop.folder.glob(pattern))[-1]
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return harm


def _overwritten(pattern: str, text: str) -> Callable[[Shop], None]:
    def harm(shop: Shop) -> None:
        _one(shop, pattern).write_text(text)

    return harm


def _journal(query: str) -> Callable[[Shop], None]:
    def harm(shop: Shop) -> None:
        db = sqlite3.connect(_one(shop, "state/runs/*/*/journal.db"), isolation_level=None)
        db.execute(query)
        db.close()

    return harm


def _exchanged(shop: Shop) -> None:
    path = _one(shop, "state/snapshots/*.parquet")
    held = tables.read_snapshot(path)
    tables.write_snapshot(path, Holdings(held.client, held.due, held.state))


def _no_journal(shop: Shop) -> None:
    path = _one(shop, "state/runs/*/*/journal.db")
    path.write_text("x" * 9000)
    path.with_name("journal.db-wal").unlink()


def _older(shop: Shop) -> None:
    path = _one(shop, "keys/*.anchor.json")
    target = shop.settings.endpoint.target
    found = anchor.read(path.parent, target)
    assert found is not None
    anchor.write(path.parent, target, replace(found, run=found.run + 1))


DAMAGE: dict[str, Callable[[Shop], None]] = {
    "the ledger is cut short": _cut("state/ledger.db"),
    "the ledger is no database": _overwritten("state/ledger.db", "x" * 9000),
    "a newer version of the ledger": _sql("UPDATE about SET value = '99' WHERE key = 'version'"),
    "another target": _sql("UPDATE about SET value = 'elsewhere operator 7' WHERE key = 'target'"),
    "a list is gone": _sql("DELETE FROM lists"),
    "withdrawals are gone": _sql("DELETE FROM withdrawals"),
    "what is kept ready is not what was withdrawn": _sql("UPDATE withdrawals SET in_force = 0"),
    "an obligation of nothing": _sql("UPDATE obligations SET list = 77"),
    "an obligation that owes too much": _sql("UPDATE obligations SET owed = 255, channels = 1"),
    "a run is gone": _sql("DELETE FROM runs WHERE number = 2"),
    "a stage that there is not": _sql("UPDATE runs SET stage = 'done'"),
    "a summary that cannot be read": _sql("UPDATE runs SET summary = '{' WHERE number = 1"),
    "the snapshot that counts is gone": _gone("state/snapshots/*.parquet"),
    "the snapshot that counts is another": _exchanged,
    "a snapshot is cut short": _cut("state/snapshots/*.parquet"),
    "a plan is cut short": _cut("state/runs/*/*/plan.parquet"),
    "a journal of another plan": _journal("UPDATE about SET rows = rows + 1"),
    "a journal beyond its plan": _journal("UPDATE about SET mark = rows + 1"),
    "a journal is no database": _no_journal,
    "held rows are cut short": _cut("state/held/*.parquet"),
    "held rows are gone": _gone("state/held/*.parquet"),
    "a list of the inbox is cut short": _cut("state/inbox/*.parquet"),
    "a list was set aside": lambda shop: (shop.folder / "state" / "inbox" / ".unreadable-x").touch(0o600),
    "the inbox is gone": _gone("state/inbox"),
    "the pause cannot be read": _overwritten("state/paused.json", "{"),
    "the anchor is gone": _gone("keys/*.anchor.json"),
    "the anchor is damaged": _overwritten("keys/*.anchor.json", "{}"),
    "the state is older than its anchor": _older,
    "the tombstones are gone": _gone("keys/*.tombstones"),
    "the key of the tombstones is gone": _gone("keys/tombstones.key"),
    "the keys are gone": _gone("keys"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_left_alone(shop: Shop, name: str) -> None:
    """Exit 4, in words; `repair` ends in 4 too and changes nothing."""
    DAMAGE[name](shop)
    said = inspecting.check(shop.settings)
    assert said["exit"] == 4, said
    assert all(one["words"] for one in said["things"] if one["verdict"] == "damaged")
    before = _tree(shop.folder)
    done = inspecting.repair(shop.settings)
    assert done["exit"] == 4
    assert (done["removed"], done["mended"]) == ([], [])
    assert _tree(shop.folder) == before


def test_a_file_of_nobody_is_named_and_left(shop: Shop) -> None:
    """Exit 1: a person put it there, and a person takes it away."""
    (shop.folder / "state" / "notes.txt").touch(0o600)
    (shop.folder / "state" / "link").symlink_to("/etc")
    assert sorted(_found(shop, "strange")) == ["link", "notes.txt"]
    assert inspecting.repair(shop.settings)["exit"] == 1
    assert (shop.folder / "state" / "notes.txt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_owner_is_damage(shop: Shop) -> None:
    """A run as the folder's owner could not write it; the line says whose it is."""
    path = _one(shop, "state/snapshots/*.parquet")
    os.chown(path, 12345, -1)
    assert "user 12345" in _found(shop, "damaged")[path.relative_to(shop.folder / "state").as_posix()]
    assert inspecting.check(shop.settings)["exit"] == 4


@pytest.mark.parametrize("seed", range(25))
def test_a_state_with_random_damage_is_never_sound(shop: Shop, seed: int) -> None:
    """Any file that counts, gone, cut or overwritten in a stretch: the check says so, or every content is as it was."""
    before = _content(shop)
    rng = random.Random(seed)
    path = rng.choice(
        [
            path
            for path in sorted((shop.folder / "state").rglob("*")) + sorted((shop.folder / "keys").rglob("*"))
            if path.is_file() and path.name not in ("lock", "running.json") and not path.name.endswith(("-wal", "-shm"))
        ]
    )
    content = path.read_bytes()
    how = rng.choice(["gone", "cut", "overwritten"])
    start = rng.randrange(len(content))
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:start])
    else:
        length = rng.randrange(64, 4096)
        path.write_bytes(content[:start] + rng.randbytes(min(length, len(content) - start)) + content[start + length :])
    said = inspecting.check(shop.settings)
    # What is gone as if it had never been there is past finding out, and so is what nothing is read from.
    unseen = how == "gone" and (
        path.parent.name == "inbox" or path.name in ("paused.json", "journal.db", "plan.parquet")
    )
    assert said["exit"] == 4 or unseen or _content(shop) == before, (path.name, how, start)


def _content(shop: Shop) -> list[object]:
    """Return everything that runs would read of a state."""
    found: list[object] = []
    for path in sorted((shop.folder / "state").rglob("*.parquet")):
        found.append((path.name, pq.read_table(path).to_pydict()))
    for path in [shop.folder / "state" / "ledger.db", *(shop.folder / "state").rglob("journal.db")]:
        with tempfile.TemporaryDirectory() as scratch:
            for one in path.parent.glob(f"{path.name}*"):
                shutil.copy(one, scratch)
            db = sqlite3.connect(Path(scratch) / path.name)
            found.append(list(db.iterdump()))
            db.close()
    return found + [path.read_bytes() for path in sorted((shop.folder / "keys").rglob("*"))]


def test_while_a_run_is_under_way_it_looks_all_the_same(shop: Shop) -> None:
    """What a run may be writing is not judged, the rest is; the run's doings are said; `repair` is refused."""
    (shop.folder / "state" / "snapshots" / "99.parquet").touch(0o600)
    with lock.held(shop.settings.state.path):
        lock.announce(shop.settings.state.path, {"kind": "run", "run": "0009-x", "stage": "sending"})
        said = inspecting.check(shop.settings)
        with pytest.raises(BusyError):
            inspecting.repair(shop.settings)
        _cut("state/held/*.parquet")(shop)
        assert inspecting.check(shop.settings)["exit"] == 4
    assert said["exit"] == 0
    assert "0009-x" in said["running"]
    assert "snapshots/99.parquet" in {one["what"] for one in said["things"] if one["verdict"] == "in use"}


def test_a_check_beside_a_run_never_cries_wolf(tmp_path: Path) -> None:
    """Whatever the run commits meanwhile, nothing of it is taken for damage or an orphan."""
    with running(Options(latency_ms=1)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=4)
        shop.write(people(150))
        shop.init()
        process = Forked("run", "--config", shop.config)
        looks = 0
        try:
            while process.poll() is None:
                said = inspecting.check(shop.settings)
                assert said["exit"] == 0, [one for one in said["things"] if one["verdict"] not in ("ok", "in use")]
                looks += 1
                if looks in (5, 10, 15):
                    shop.withdraw({1000 + looks: "all"})
        finally:
            process.kill()
            process.wait()
    assert looks > 3


def test_no_state_is_said(tmp_path: Path) -> None:
    """Neither command makes one."""
    shop = Shop(tmp_path, "http://127.0.0.1:9")
    for command in (inspecting.check, inspecting.repair):
        with pytest.raises(NoStateError, match="no state"):
            command(shop.settings)
    assert not (tmp_path / "state").exists()


def test_words_and_json_say_the_same(shop: Shop, cli: Cli) -> None:
    """A line a thing, then the counts, then what to do; exit 4 from the command line."""
    _overwritten("state/paused.json", "{")(shop)
    (shop.folder / "state" / "held" / ".x.parquet.new").touch(0o600)
    words = cli("state", "check", "--config", shop.config)
    said = json.loads(cli("state", "check", "--config", shop.config, "--json").out)
    assert words.code == said["exit"] == 4
    lines = words.out.splitlines()
    assert any(line.startswith("damaged  paused.json") for line in lines)
    assert any(line.startswith("orphan   held/.x.parquet.new") for line in lines)
    assert lines[-1].startswith("`consent-sync state repair`")
    words = cli("state", "repair", "--config", shop.config)
    assert words.code == 4
    assert words.out.startswith("removed  held/.x.parquet.new")
    assert "damaged  paused.json" in words.out
