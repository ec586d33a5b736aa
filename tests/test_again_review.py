"""What a review of backfills, undo and restored states tried: somebody allowed who must not be, a denial lost."""

import shutil
import time
from pathlib import Path

import pytest

import sync_job
from sync_job.consent.backfill import Again
from sync_job.errors import BusyError, ConfigError, Exit, ExportError
from sync_job.ledger import handover, lock
from sync_job.runs import (
    backfills,
    backups,
    decide,
    drain,
    inspecting,
    night,
    planning,
    restoring,
)
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.shop import Shop, backfill, holds

YES, NO, NOTHING = (True,) * 4, (False,) * 4, (None,) * 4
ALL, DENIALS = Again(grants=True), Again()


def lost(shop: Shop) -> None:
    """Lose the state, and put the backup back."""
    shutil.rmtree(shop.settings.state.path)
    backups.restore(shop.settings, shop.folder / "b.tar")


def test_a_plan_is_not_applied_after_a_backfill_of_a_newer_export(tmp_path: Path, platform: Standin) -> None:
    """The newer one denies whom the plan grants; nothing was changed by it that the plan could be held against."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: NO, 2: YES})
    shop.init("equal")
    shop.write({1: YES, 2: YES})
    planning.plan(shop.settings, Watch(), tmp_path / "p", Wish())
    shop.write({1: NO, 2: YES})
    backfill(shop)
    with pytest.raises(ConfigError, match="another run read an export"):
        planning.apply(shop.settings, tmp_path / "p", Watch())
    assert holds(platform.platform)[1] == NO


def test_a_list_that_is_too_short_makes_no_backup_whole(tmp_path: Path, platform: Standin) -> None:
    """What is missing still is said; the list is kept, and a person who knows no more has to say the number."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: NOTHING, 3: NOTHING})
    shop.init("equal")
    backups.backup(shop.settings, tmp_path / "b.tar")
    shop.withdraw({2: "all", 3: "all"})
    drain.drain(shop.settings, "drain", Watch())
    lost(shop)
    with pytest.raises(
        ConfigError, match=r"named 1 of the 2 who were missing\. 1 person who withdrew is missing still"
    ):
        restoring.restored(shop.settings, shop.listing({3: "all"}), "me", Watch())
    time.sleep(0.3)
    shop.write({1: YES, 2: YES, 3: YES})
    with pytest.raises(sync_job.errors.StateError):
        sync_job.run(shop.settings)
    for wrong in (0, 2):
        with pytest.raises(ConfigError, match="--missing 1"):
            restoring.restored(shop.settings, None, "me", Watch(), missing=wrong)
    restoring.restored(shop.settings, shop.listing({2: "all"}), "me", Watch())
    sync_job.run(shop.settings)
    assert holds(platform.platform) == {2: NO, 3: NO}


def test_a_backfill_is_no_way_around_the_guard_on_new_grants(tmp_path: Path) -> None:
    """Neither for those whom it holds, nor for those who wait after a refusal and were not in the number."""
    refusing = True

    def script(number: int, client: int) -> Fault | None:
        return Fault.REFUSE if refusing and client >= 100 and client % 2 else None

    with running(Options(script=script)) as platform:
        guards = "new_grants = 12\nnew_grants_share = 0\nnew_grants_nights = 0\nunknown = 1000\nchanged = 1000"
        shop = Shop(tmp_path, platform.url, guards=guards)
        everybody = set(range(1, 41))
        shop.write(dict.fromkeys(sorted(everybody), YES))
        shop.init("equal")
        for number in range(4):  # five of ten are refused each night, and wait
            everybody |= set(range(100 + 10 * number, 110 + 10 * number))
            shop.write(dict.fromkeys(sorted(everybody), YES))
            sync_job.run(shop.settings)
            shop.a_day_later()
        found = planning.plan(shop.settings, Watch(), None, Wish(again=ALL))
        assert found["granted"] == 60
        backfill(shop, ALL, approved=60)
        refusing, before = False, len(platform.platform.log)
        assert night.run(shop.settings, Wish(retry=True), Watch()).exit_code is Exit.HELD
        assert len(platform.platform.log) == before


def test_a_restore_ends_the_backfill_that_was_open(tmp_path: Path, platform: Standin) -> None:
    """What is denied again after it must not be cancelled as if the backfill had made it due."""
    shop = Shop(tmp_path, platform.url, linger_s=0.05)
    shop.write({1: NO, 2: NO})
    shop.init("equal")
    backfill(shop, limit=0)
    backups.backup(shop.settings, tmp_path / "b.tar")
    shop.write({1: YES, 2: NO})
    sync_job.run(shop.settings)
    lost(shop)
    with pytest.raises(ConfigError, match="No backfill is open"):
        backfills.cancel(shop.settings)
    shop.write({1: NO, 2: NO})
    time.sleep(0.1)
    sync_job.run(shop.settings)
    restoring.restored(shop.settings, None, "me", Watch())
    sync_job.run(shop.settings)
    assert holds(platform.platform) == {1: NO, 2: NO}


def test_cancel_leaves_a_new_denial(tmp_path: Path) -> None:
    """The export had decided it, and the platform was never told: that is no repetition."""
    refusing = True
    with running(Options(script=lambda number, client: Fault.REFUSE if refusing and client == 5 else None)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({1: NO})
        shop.init("equal")
        shop.write({1: NO, 5: NO})
        backfill(shop)
        refusing = False
        backfills.cancel(shop.settings)
        shop.write({1: NO})
        night.run(shop.settings, Wish(retry=True), Watch())
        assert holds(platform.platform)[5] == NO


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_mark_that_cannot_be_read_ends_no_run(tmp_path: Path, platform: Standin, how: str) -> None:
    """Runs and lists go on; cancelling ends the backfill and leaves due what it cannot tell."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: NO, 2: YES})
    shop.init("equal")
    backfill(shop, limit=0)
    (mark,) = (tmp_path / "state" / "backfills").iterdir()
    if how == "cut":
        mark.write_bytes(mark.read_bytes()[:200])
    else:
        mark.unlink()
    assert inspecting.check(shop.settings)["exit"] == Exit.STATE
    assert sync_job.run(shop.settings).exit_code is Exit.OK
    assert holds(platform.platform) == {1: NO}
    shop.withdraw({2: "all"})
    drained = drain.drain(shop.settings, "drain", Watch())
    assert drained is not None
    assert drained.exit_code is Exit.OK
    with pytest.raises(ConfigError, match="some of its 1 clients"):
        backfill(shop)
    assert backfills.cancel(shop.settings)["left"] is None
    assert backfill(shop).exit_code is Exit.OK


def test_a_restore_leaves_the_fuller_report(tmp_path: Path, platform: Standin) -> None:
    """The backup was made when nothing was delivered yet; what the platform acknowledged since stays readable."""
    shop = Shop(tmp_path, platform.url)
    shop.write(dict.fromkeys(range(1, 40), NO))
    shop.init("empty")

    class Backing(Watch):
        def stage(self, name: str, total: int = 0) -> None:
            super().stage(name, total)
            if name == "sending":
                backups.backup(shop.settings, tmp_path / "b.tar")

    report = night.run(shop.settings, Wish(), Backing())
    before = (report.folder / "results.csv").read_bytes()
    lost(shop)
    drain.drain(shop.settings, "drain", Watch())
    assert (report.folder / "results.csv").read_bytes() == before
    assert (report.folder.with_name(f"{report.folder.name}-restored") / "summary.json").exists()


def test_nobody_takes_over_for_an_export_that_is_not_there(tmp_path: Path, platform: Standin) -> None:
    """The backfill would end, and nothing carry it on."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: NO})
    shop.init("equal")
    settings = shop.settings
    shop.export.unlink()
    with lock.held(settings.state.path):
        lock.announce(settings.state.path, {"kind": "backfill", "run": "x", "stage": "sending", "hands_over": True})
        with pytest.raises(ExportError):
            backfills.taking_over(
                settings,
                lambda: night.run(settings, Wish(), Watch()),
                Watch(),
                ready=lambda: decide.look(settings),
            )
    assert not handover.is_asked(settings.state.path)


def test_who_has_asked_waits_for_whoever_is_quicker(tmp_path: Path, platform: Standin) -> None:
    """A drain may take the lock in between, and does not hand over."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: NO})
    shop.init("equal")
    folder = shop.settings.state.path
    steps = iter(["backfill", "drain", "free"])

    def act() -> str:
        step = next(steps)
        if step == "free":
            return "ran"
        lock.announce(folder, {"kind": step, "run": "x", "stage": "s", "hands_over": step == "backfill"})
        raise BusyError(f"busy {step}")

    assert backfills.taking_over(shop.settings, act, Watch(), sleep=lambda _: None) == "ran"
