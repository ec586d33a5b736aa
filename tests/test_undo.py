"""`undo` of a run: what it takes back, and what it must not."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

import sync_job
from sync_job.errors import ConfigError, Exit
from sync_job.runs import approving, drain, night, planning, undo
from sync_job.runs.decide import Wish
from sync_job.runs.report import Report
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from tests.shop import Shop, changed, expected, holds, people

YES, NO = (True,) * 4, (False,) * 4


@pytest.fixture
def platform() -> Iterator[Standin]:
    """Run a stand-in that answers at once and rightly."""
    with running() as found:
        yield found


def undone(shop: Shop, name: str) -> Report:
    """Undo a run."""
    return night.run(shop.settings, Wish(part=True), Watch(), "undo", undo.reading(shop.settings, name))


def last(shop: Shop) -> str:
    """Return the last run."""
    with shop.state() as state:
        return state.ledger.runs()[-1].run


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_a_run_is_taken_back(tmp_path: Path, platform: Standin, format_: str) -> None:
    """The platform holds what it held before, but for what had been nothing, which is listed."""
    shop = Shop(tmp_path, platform.url)
    shop.config.write_text(shop.config.read_text() + f'[report]\nresults = "{format_}"\n')
    first = people(400)
    shop.write(first)
    shop.init("empty")
    sync_job.run(shop.settings)
    before = holds(platform.platform)
    second = changed(first, 0.5)
    shop.write(second)
    sync_job.run(shop.settings)
    wrong = last(shop)
    assert holds(platform.platform) == expected(first, second)
    report = undone(shop, wrong)
    assert report.summary["kind"] == "undo"
    after = holds(platform.platform)
    for client, flags in after.items():
        for place, flag in enumerate(flags):
            was = before.get(client, (None,) * 4)[place]
            assert flag == (second[client][place] if was is None else was)
    with (report.folder / "not_undone.csv").open() as file:
        listed = {(int(row["Client"]), name) for row in csv.DictReader(file) for name in row["channels"].split()}
    names = ("Sms", "Email", "Push", "EmailOnlineCheque")
    assert listed == {
        (client, names[place])
        for client, flags in after.items()
        for place, flag in enumerate(flags)
        if flag is not None and before.get(client, (None,) * 4)[place] is None
    }
    assert undone(shop, wrong).summary["planned"] == 0


def test_what_changed_since_and_what_was_withdrawn_stays(tmp_path: Path, platform: Standin) -> None:
    """Only what the platform still holds as that run sent it; nobody who withdrew is allowed by an undo."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: YES, 3: YES})
    shop.init("equal")
    shop.write({1: NO, 2: NO, 3: NO})
    sync_job.run(shop.settings)
    wrong = last(shop)
    shop.write({1: NO, 2: (True, False, False, False), 3: NO})
    sync_job.run(shop.settings)
    shop.withdraw({3: "sms"})
    drain.drain(shop.settings, "drain", Watch())
    report = undone(shop, wrong)
    assert report.exit_code is Exit.OK
    assert holds(platform.platform) == {1: YES, 2: YES, 3: (False, True, True, True)}


def test_the_guards_look_at_it(tmp_path: Path, platform: Standin) -> None:
    """Many re-grants are held until approved by their number; then the same command sends them."""
    shop = Shop(tmp_path, platform.url, guards="re_grants = 5\nre_grants_share = 0")
    shop.write(dict.fromkeys(range(1, 21), YES))
    shop.init("equal")
    shop.write(dict.fromkeys(range(1, 21), NO))
    sync_job.run(shop.settings)
    wrong = last(shop)
    report = undone(shop, wrong)
    assert report.exit_code is Exit.HELD
    assert holds(platform.platform) == dict.fromkeys(range(1, 21), NO)
    approving.approve(shop.settings, last(shop), "grants", 20, reason="a wrong file", by="operations")
    assert undone(shop, wrong).exit_code is Exit.OK
    assert holds(platform.platform) == dict.fromkeys(range(1, 21), YES)


def test_what_cannot_be_undone(tmp_path: Path, platform: Standin) -> None:
    """No such run, or results that are gone; `--check` sends nothing."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES})
    shop.init("equal")
    shop.write({1: NO})
    report = sync_job.run(shop.settings)
    with pytest.raises(ConfigError, match="No report of a run '77'"):
        undo.reading(shop.settings, "77")
    before = platform.requests
    found = planning.plan(shop.settings, Watch(), None, Wish(part=True), undo.reading(shop.settings, "2"))
    assert (found["requests"], platform.requests) == (1, before)
    (report.folder / "results.csv").unlink()
    with pytest.raises(ConfigError, match="nobody knows what was"):
        undo.reading(shop.settings, "2")
