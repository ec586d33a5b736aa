"""Erasure: denials first, then nothing of a client is left but a code; and whoever is half erased gets erased."""

import contextlib
import csv
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import sync_job
from sync_job.consent.channels import Ids
from sync_job.consent.known import Lingering
from sync_job.errors import BusyError, ConfigError, Exit, StateError, StorageError
from sync_job.ledger import anchor, lock
from sync_job.report import kept, results, scrub
from sync_job.report.counts import Summary
from sync_job.runs import drain, erasure, forgetting, night, recover, restoring
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.shop import Shop, holds

YES, NO = (True, True, True, True), (False, False, False, False)
# Ids that turn up in no count, time or digest by chance.
GONE, STAYS = 1_987_654_321, 1_876_543_219


def forget(shop: Shop, *clients: int) -> Summary:
    """Erase clients, and return what is said of it."""
    return forgetting.forget(shop.settings, forgetting.clients(shop.settings, clients, None), "R-77", Watch())


def drained(shop: Shop) -> None:
    """Do what cron does every quarter of an hour."""
    drain.drain(shop.settings, "drain", Watch())


def traces(folder: Path, client: int) -> list[str]:
    """Return the files below *folder* that have the client, as text or as the four bytes of its id."""
    forms = (str(client).encode(), client.to_bytes(4, "little"), client.to_bytes(4, "big"))
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix == ".parquet":
            # Parquet packs its columns: a packed id has other bytes.
            if any(client in column.to_pylist() for column in pq.read_table(path).columns):
                found.append(str(path.relative_to(folder)))
        elif path.is_file() and any(form in path.read_bytes() for form in forms):
            found.append(str(path.relative_to(folder)))
    return found


def everywhere(shop: Shop) -> list[str]:
    """Return where a client that is to be erased is left, but for what is out of reach."""
    return [f"{name}/{found}" for name in ("state", "keys", "reports") for found in traces(shop.folder / name, GONE)]


def well_known(shop: Shop) -> None:
    """Have a client in everything that is kept: snapshots, ledger, held sets, and every list of a report."""
    crowd = {client: YES if client % 2 else NO for client in range(1, 400)}
    shop.write(crowd | {GONE: YES, STAYS: YES})
    shop.init("equal")
    shop.withdraw({GONE: "sms", STAYS: "sms"})
    shop.write(crowd | {GONE: (True, False, True, True), STAYS: (True, False, True, True)})
    sync_job.run(shop.settings)
    # A night whose guards hold, with rows that are rejected and rows that disagree.
    shop.write({client: NO if client % 2 else YES for client in crowd} | {GONE: NO, STAYS: YES})
    with shop.export.open("a") as file:
        for client in (GONE, STAYS):
            file.write(f" 00{client} ,perhaps,,,\n{client},false,,,true\n")
    sync_job.run(shop.settings)
    shop.write(crowd)
    sync_job.run(shop.settings)


def test_nothing_is_left_of_an_erased_client(tmp_path: Path, platform: Standin) -> None:
    """Neither in state, keys or reports, in no form that its id has there; all the others are where they were."""
    shop = Shop(tmp_path, platform.url, guards="")
    well_known(shop)
    before = {name: path for path in (tmp_path / "reports").rglob("*.csv") for name in [path.name]}
    assert {"results.csv", "rejects.csv", "held.csv", "blocked.csv", "absent.csv", "duplicates.csv"} <= set(before)
    assert {place.split("/")[-1] for place in everywhere(shop)} >= {"ledger.db", *before}
    stays = [traces(tmp_path / name, STAYS) for name in ("state", "reports")]
    found = forget(shop, GONE)
    assert (found["forgotten"], found["waiting"], found["exit"]) == (1, 0, Exit.OK)
    assert everywhere(shop) == []
    assert holds(platform.platform)[GONE] == NO, "what was allowed is denied before nobody knows of it any more"
    assert traces(tmp_path / "reports", STAYS) == stays[1]
    assert set(traces(tmp_path / "state", STAYS)) <= {*stays[0], *(f"snapshots/{n}.parquet" for n in range(20))}
    assert len(list((tmp_path / "state" / "snapshots").iterdir())) == 1, "the older ones had the client"
    for path in (tmp_path / "reports").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_what_is_out_of_reach_is_said(tmp_path: Path, platform: Standin) -> None:
    """Backups, inputs, the CRM and the platform are for people to see to."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: NO})
    shop.init("equal")
    said = " ".join(forget(shop, GONE)["out_of_reach"])
    assert all(word in said for word in ("backup", "export", "CRM", "platform"))
    assert platform.requests == 1, "a denial of every channel, though all were denied already"


def test_a_client_to_whom_a_denial_is_owed_is_erased_when_it_is_delivered(tmp_path: Path) -> None:
    """Refused today: the request is kept, the exit code says so, and the drain that delivers it erases the client."""
    refusing = [True]

    def script(number: int, client: int) -> Fault | None:
        return Fault.ERROR_BEFORE if refusing and client == GONE else None

    with running(Options(script=script)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.config.write_text(shop.config.read_text().replace("attempts = 6", "attempts = 1"))
        shop.write({GONE: YES, STAYS: YES})
        shop.init("equal")
        found = forget(shop, GONE, STAYS)
        assert (found["forgotten"], found["waiting"], found["exit"]) == (1, 1, Exit.ATTENTION)
        drained(shop)
        assert "state/ledger.db" in everywhere(shop)
        refusing.clear()
        for _ in range(10):
            if not everywhere(shop):
                break
            time.sleep(0.1)  # while a request of it may still be applied late
            drained(shop)
        assert everywhere(shop) == []
        assert holds(platform.platform)[GONE] == NO
        with shop.state() as state:
            assert not len(state.ledger.forgetting.asked())


def test_a_client_that_the_platform_does_not_know_is_erased_all_the_same(tmp_path: Path) -> None:
    """What is parked is nothing that is still to be delivered."""
    with running(Options(known=[STAYS])) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({STAYS: YES})
        shop.init("equal")
        shop.withdraw({GONE: "all"})
        drained(shop)
        assert shop.owed() == {GONE: 0b01010101}
        assert forget(shop, GONE)["forgotten"] == 1
        assert everywhere(shop) == []
        assert shop.owed() == {}


@pytest.mark.parametrize(("ends_in_s", "waiting"), [(60.0, 1), (-60.0, 0)])
def test_a_client_that_lingers_is_erased_afterwards(
    tmp_path: Path, platform: Standin, ends_in_s: float, waiting: int
) -> None:
    """While a request of it may be applied late it is kept; a linger that has ended keeps nobody."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: NO})
    shop.init("equal")
    now = time.time()
    with shop.state(write=True) as state:
        run = state.ledger.begin("run", now, "died")
        lingering = Lingering(np.array([GONE], np.int32), np.array([now + ends_in_s]), np.array([True]))
        state.commit_leg(run, 0, holdings=state.holdings(), lingering=lingering, now=now)
    found = forget(shop, GONE)
    assert (found["waiting"], found["exit"]) == (waiting, waiting)
    assert bool(everywhere(shop)) is bool(waiting)


def test_an_erased_client_stays_out_of_the_reports_of_later_nights(tmp_path: Path, platform: Standin) -> None:
    """The CRM exports it again, with rows that disagree and rows that are rejected: neither is kept."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: YES, STAYS: YES})
    shop.init("equal")
    forget(shop, GONE)
    with shop.export.open("a") as file:
        file.write(f"{GONE},false,,,\n{GONE},perhaps,,,\n{STAYS},false,,,\n{STAYS},perhaps,,,\n")
    before = platform.requests
    report = sync_job.run(shop.settings)
    assert report.summary["decided"]["forgotten"] == 1
    assert everywhere(shop) == []
    assert set(traces(report.folder, STAYS)) >= {"rejects.csv", "duplicates.csv"}
    assert platform.requests == before + 1, "of the client that is still there"


def test_an_erased_client_is_not_in_a_new_state(tmp_path: Path, platform: Standin) -> None:
    """The state is made anew, from the export and from a dump that both have it; the codes beside the keys are left."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: YES, STAYS: YES})
    shop.init("equal")
    forget(shop, GONE)
    dump = tmp_path / "dump.csv"
    dump.write_text(platform.platform.csv() + f"{STAYS},true,true,true,true\n")
    for start in ("unknown", str(dump)):
        shutil.rmtree(tmp_path / "state")
        for path in (tmp_path / "keys").glob("*.anchor.json"):
            path.unlink()
        shop.init(start)
        assert everywhere(shop) == []
        with shop.state() as state:
            assert state.holdings().client.tolist() == [STAYS]


def test_a_restored_backup_brings_nobody_back(tmp_path: Path, platform: Standin) -> None:
    """Whoever was erased since leaves again, before anything is sent; whoever came on a list since stays."""
    shop = Shop(tmp_path, platform.url)
    other = GONE + 1
    shop.write({GONE: YES, other: YES, STAYS: YES})
    shop.init("equal")
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    forget(shop, GONE, other)
    received = time.time()
    shop.withdraw({other: "sms"}, received_at=received)
    drained(shop)
    shutil.copytree(tmp_path / "state", tmp_path / "later")
    shop.write({STAYS: YES})
    sync_job.run(shop.settings)
    before = platform.requests
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "later", tmp_path / "state")
    sync_job.run(shop.settings)
    with shop.state() as state:
        assert state.ledger.withdrawals.of(other)["withdrawals"], "a list named it after its erasure"
    assert everywhere(shop) == []
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "backup", tmp_path / "state")
    with pytest.raises(StateError, match="state restored"):
        sync_job.run(shop.settings)
    assert everywhere(shop) == []
    with pytest.raises(ConfigError, match="1 person who withdrew is missing"):
        restoring.restored(shop.settings, None, "operations", Watch())
    restoring.restored(shop.settings, shop.listing({other: "sms"}, received_at=received), "operations", Watch())
    sync_job.run(shop.settings)
    assert everywhere(shop) == []
    with shop.state() as state:
        assert GONE not in state.holdings().client
    assert {entry.client for entry in platform.platform.log[before:]} <= {STAYS, other}


class StoppedError(Exception):
    """A run ended here."""


class Stopping(Watch):
    """Ends a run when it comes to a stage, after the state was copied."""

    def __init__(self, stage: str, shop: Shop) -> None:
        super().__init__()
        self._ends_at, self._shop = stage, shop

    def stage(self, name: str, total: int = 0) -> None:
        """Say that the next stage began, and end there if it is the one."""
        super().stage(name, total)
        if name == self._ends_at:
            shutil.copytree(self._shop.folder / "state", self._shop.folder / "backup")
            raise StoppedError


@pytest.mark.parametrize("stage", ["folding", "reporting"])
def test_a_restored_run_that_died_brings_nobody_back(tmp_path: Path, platform: Standin, stage: str) -> None:
    """The backup was taken while a run was under way: its plan names the client, and its report must not."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: YES, STAYS: YES})
    shop.init("empty")
    with pytest.raises(StoppedError):
        night.run(shop.settings, Wish(), Stopping(stage, shop))
    assert list((tmp_path / "backup" / "runs").rglob("plan.parquet"))
    forget(shop, GONE)
    assert everywhere(shop) == []
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "backup", tmp_path / "state")
    drained(shop)
    time.sleep(shop.settings.delivery.linger_s)  # nobody knows what was on its way when the backup was put back
    drained(shop)
    assert everywhere(shop) == []


def test_an_erasure_waits_for_the_report_of_a_run_that_could_not_write_it(tmp_path: Path, platform: Standin) -> None:
    """Its plan and journal have the client: it would come back in the report."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: NO, STAYS: NO})
    shop.init("unknown")
    with pytest.raises(StoppedError):
        night.run(shop.settings, Wish(), Stopping("reporting", shop))
    with shop.state(write=True) as state:
        erasure.ask(state, shop.settings, np.array([GONE], np.int32), "R-77")
    reports = shop.settings.report.path
    reports.rename(tmp_path / "aside")
    reports.write_text("no folder")
    with contextlib.suppress(StorageError):  # the denial is sent, and its report cannot be written either
        drained(shop)
    with shop.state() as state:
        assert state.ledger.forgetting.asked().tolist() == [GONE]
    reports.unlink()
    (tmp_path / "aside").rename(reports)
    drained(shop)
    assert everywhere(shop) == []


class Died(BaseException):
    """The process ended here."""


def dies_at(number: int, patch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Let the *number*th write that reaches the disk end the process; return what says whether it did."""
    left, real = [number], os.fsync

    def fsync(handle: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Died
        real(handle)

    patch.setattr(os, "fsync", fsync)
    return lambda: left[0] <= 0


def test_an_erasure_that_dies_anywhere_is_made_good_by_the_next_drain(tmp_path: Path, platform: Standin) -> None:
    """At every write: the next command, with nothing owed any more, leaves nothing of the client."""
    (tmp_path / "first").mkdir()
    well_known(Shop(tmp_path / "first", platform.url, guards=""))
    for number in range(1, 400):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", folder)
        shop = Shop(folder, platform.url, guards="")
        with pytest.MonkeyPatch.context() as patch:
            died = dies_at(number, patch)
            with contextlib.suppress(Died):
                forget(shop, GONE)
        if not died():
            break
        with shop.state() as state:
            asked = GONE in state.ledger.forgetting.asked()
        drained(shop)
        for _ in range(20):
            with shop.state() as state:
                place = state.ledger.place()
                lingers = len(state.ledger.lingering().client)
            if not lingers:
                break
            time.sleep(0.05)  # a request that was under way may still be applied late
            drained(shop)
        anchored = anchor.read(shop.settings.state.keys, shop.settings.endpoint.target)
        assert anchored is not None
        assert anchored.snapshot == place["snapshot"], "so that a backup from before is known again"
        if asked or erasure.tombstones(shop.settings).of(np.array([GONE], np.int32)).any():
            assert everywhere(shop) == [], f"died at write {number}"
        else:
            assert forget(shop, GONE)["forgotten"] == 1
            assert everywhere(shop) == [], f"died at write {number}, before it was noted"
        shutil.rmtree(folder)
    assert number > 20
    assert everywhere(shop) == []


def test_to_forget_is_refused_while_another_holds_the_lock(tmp_path: Path, platform: Standin) -> None:
    """And nothing is noted of it."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: YES})
    shop.init("equal")
    with lock.held(shop.settings.state.path), pytest.raises(BusyError):
        forget(shop, GONE)
    with shop.state() as state:
        assert not len(state.ledger.forgetting.asked())


def test_a_list_names_who_is_erased(tmp_path: Path, platform: Standin) -> None:
    """Ids alone will do; a row that cannot be read ends it before anybody is erased."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: NO, STAYS: NO})
    shop.init("equal")
    listed = tmp_path / "list.csv"
    listed.write_text(f"{STAYS}\n{GONE}\n{GONE}\n")
    assert forgetting.clients(shop.settings, (), str(listed)).tolist() == [STAYS, GONE]
    listed.write_text(f"{GONE}\nsomebody\n")
    with pytest.raises(ConfigError, match="1 rows cannot be read"):
        forgetting.clients(shop.settings, (), str(listed))
    for given, path in (((), None), ((GONE,), str(listed))):
        with pytest.raises(ConfigError, match="one of the two"):
            forgetting.clients(shop.settings, given, path)


def test_whoever_was_erased_can_be_erased_again(tmp_path: Path, platform: Standin) -> None:
    """Also after a list named it: what that says is delivered first."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: YES, STAYS: YES})
    shop.init("equal")
    assert forget(shop, GONE)["forgotten"] == 1
    before = platform.requests
    again = forget(shop, GONE)
    assert (again["forgotten"], again["erased_before"], again["denied"]) == (1, 1, 0)
    assert platform.requests == before, "nothing is known of it since"
    shop.withdraw({GONE: "all"}, received_at=time.time())
    assert forget(shop, GONE)["forgotten"] == 1
    assert platform.requests == before + 1
    assert everywhere(shop) == []


def test_reports_of_another_target_are_left_alone(tmp_path: Path, platform: Standin) -> None:
    """Two brands may keep their reports in one folder: the same id is another person there."""
    brands = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        more = f"[report]\npath = '{tmp_path / 'reports'}'"
        shop = Shop(tmp_path / name, platform.url, more=more)
        if name == "other":
            shop.config.write_text(shop.config.read_text().replace("operator = 7", "operator = 8"))
        shop.write({GONE: NO})
        shop.init("unknown")
        assert sync_job.run(shop.settings).summary["planned"] == 1
        brands.append(shop)
        time.sleep(1.1 - time.time() % 1)  # a report's folder is named by its second
    forget(brands[0], GONE)
    reports = tmp_path / "reports"
    for shop, there in zip(brands, (False, True), strict=True):
        folders = kept.folders(reports, shop.settings.endpoint.target)
        assert len(folders) == (2 if there else 3), "with that of the denials before the erasure"
        assert any(traces(folder, GONE) for folder in folders) is there


def test_reports_are_listed_by_the_number_of_their_run(tmp_path: Path) -> None:
    """The run after the 9999th comes after it."""
    for name in (
        "10000-20260101T000000Z",
        "9999-20251231T000000Z",
        "0002-20200101T000000Z",
        "compare-20200101T000000Z",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "a file").touch()
    found = [folder.name.partition("-")[0] for folder in kept.folders(tmp_path, "target")]
    assert found == ["compare", "0002", "9999", "10000"]
    assert kept.folders(tmp_path / "none", "target") == []


# Scrubbing the files of a report


def ids(*clients: int) -> Ids:
    """Return ids as an array."""
    return np.array(clients, np.int32)


def test_a_scrubbed_file_keeps_its_form(tmp_path: Path) -> None:
    """But for the rows of the erased it is what it was, byte for byte; a file without them is not touched."""
    lines = {
        "held.csv": ['"Client","channel","stated"', '5,"Sms","allowed"', '55,"Sms",""'],
        "absent.csv": ['"Client"', "5", "55"],
        "duplicates.csv": ['"Client","AllowSms","AllowEmail"', "5,true,", "55,,false"],
        "rejects.csv": ['"Id","note","reject_raw"', '"5","a, ""b""",', '"55","","x\ny"', '"","5","5"'],
    }
    for name, rows in lines.items():
        path = tmp_path / name
        path.write_text("\n".join([*rows, ""]), newline="")
        unchanged = path.stat()
        assert scrub.without(tmp_path, ids(7), "Id") == 0
        assert path.stat().st_mtime_ns == unchanged.st_mtime_ns
        assert scrub.without(tmp_path, ids(5, 7), "Id") == 1
        assert path.read_text() == "\n".join([rows[0], *rows[2:], ""])
        path.unlink()


@pytest.mark.parametrize("cell", ["5", " 5 ", "005", "5.0", "5.", "\u202f5\u00a0"])
def test_a_reject_is_known_by_its_id_however_it_is_written(tmp_path: Path, cell: str) -> None:
    """As exports write ids: with blanks and zeros, and with a point where a table kept them as floats."""
    path = tmp_path / "rejects.csv"
    path.write_text(f'"Id","Client"\n"{cell}","x"\n"50","5"\n"0.5","5"\n"","5"\n')
    assert scrub.without(tmp_path, ids(5), "Id") == 1
    assert path.read_text() == '"Id","Client"\n"50","5"\n"0.5","5"\n"","5"\n'


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_large_results_are_scrubbed_block_by_block(tmp_path: Path, format_: str) -> None:
    """All rows of all blocks are looked at, and what is left reads as before."""
    count = 300_000
    rng = np.random.default_rng(1)
    clients = rng.integers(1, 1000, count).astype(np.int32)
    columns = {
        name: pa.nulls(count, kind) for name, kind in zip(results.SCHEMA.names, results.SCHEMA.types, strict=True)
    }
    columns |= {"Client": pa.array(clients), "message": pa.repeat('no, "none"\nat all', count)}
    columns["settled"] = (
        pa.repeat(pa.scalar(1.7e12, pa.float64()), count).cast(pa.int64()).cast(pa.timestamp("ms", "UTC"))
    )
    table = pa.table(columns, schema=results.SCHEMA)
    path = tmp_path / f"results.{format_}"
    pa.csv.write_csv(table, str(path)) if format_ == "csv" else pq.write_table(table, path)
    gone = ids(*range(1, 1000, 2))
    assert scrub.without(tmp_path, gone, "Client") == np.isin(clients, gone).sum()
    left = table.filter(pa.array(~np.isin(clients, gone)))
    again = tmp_path / f"again.{format_}"
    if format_ == "parquet":
        assert pq.read_table(path).equals(left)
    else:
        pa.csv.write_csv(left, str(again))
        assert path.read_bytes() == again.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_read_stops_the_erasure_and_is_named(tmp_path: Path) -> None:
    """It may have the client: that is no erasure."""
    (tmp_path / "results.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(StateError, match=r"results\.parquet: cannot be rewritten"):
        scrub.without(tmp_path, ids(5), "Client")


def test_deleted_rows_do_not_stay_in_the_free_pages_of_the_ledger(tmp_path: Path, platform: Standin) -> None:
    """SQLite overwrites what it deletes."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: NO})
    shop.init("equal")
    with recover.holding(shop.settings) as state:
        connection: sqlite3.Connection = state.ledger._db
        assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)


def test_the_file_of_a_list_is_out_of_reach(tmp_path: Path, platform: Standin) -> None:
    """What people gave us is theirs to delete: only what we wrote is rewritten."""
    shop = Shop(tmp_path, platform.url)
    shop.write({GONE: YES})
    shop.init("equal")
    text = shop.export.read_text()
    forget(shop, GONE)
    assert shop.export.read_text() == text
    assert next(csv.reader([text.splitlines()[1]]))[0] == str(GONE)
