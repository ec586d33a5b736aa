"""`undo` of a run: it denies what that run granted, and grants nothing."""

import csv
from pathlib import Path

import pytest

import sync_job
from sync_job.errors import ConfigError, Exit
from sync_job.runs import approving, drain, night, planning, undo
from sync_job.runs.decide import Wish
from sync_job.runs.report import Report
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin
from tests.shop import Shop, changed, expected, holds, people

YES, NO = (True,) * 4, (False,) * 4
NAMES = ("Sms", "Email", "Push", "EmailOnlineCheque")


def undone(shop: Shop, name: str) -> Report:
    """Undo a run."""
    return night.run(shop.settings, Wish(part=True), Watch(), "undo", undo.reading(shop.settings, name))


def last(shop: Shop) -> str:
    """Return the last run."""
    with shop.state() as state:
        return state.ledger.runs()[-1].run


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_what_a_run_granted_is_denied(tmp_path: Path, platform: Standin, format_: str) -> None:
    """Every channel that the run allowed is denied; what it denied is left alone, and listed."""
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
    denied = set()
    for client, flags in holds(platform.platform).items():
        for place, flag in enumerate(flags):
            was = before.get(client, (None,) * 4)[place]
            says = second[client][place]
            assert flag == (False if says and was is not True else was if says is None else says)
            denied |= {(client, NAMES[place])} if says is False and was is not False else set()
    with (report.folder / "not_undone.csv").open() as file:
        listed = {(int(row["Client"]), name) for row in csv.DictReader(file) for name in row["channels"].split()}
    assert denied <= listed
    assert undone(shop, wrong).summary["planned"] == 0


def test_an_undo_grants_nobody(tmp_path: Path, platform: Standin) -> None:
    """Wrong denials are healed by the next right export, through the guards."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: YES, 2: YES, 3: YES})
    shop.init("equal")
    shop.write({1: NO, 2: NO, 3: NO})
    sync_job.run(shop.settings)
    report = undone(shop, last(shop))
    assert (report.exit_code, report.summary["planned"]) == (Exit.OK, 0)
    assert holds(platform.platform) == {1: NO, 2: NO, 3: NO}


def test_the_guards_look_at_it(tmp_path: Path, platform: Standin) -> None:
    """Many denials are held until approved by their number; from then on they are owed."""
    shop = Shop(tmp_path, platform.url, guards="revocations = 5\nrevocations_share = 0\nnew_grants = 100")
    shop.write(dict.fromkeys(range(1, 21), (None,) * 4))
    shop.init("empty")
    shop.write(dict.fromkeys(range(1, 21), YES))
    sync_job.run(shop.settings)
    assert undone(shop, last(shop)).exit_code is Exit.HELD
    assert holds(platform.platform) == dict.fromkeys(range(1, 21), YES)
    approving.approve(shop.settings, last(shop), "revocations", 20, reason="a wrong file", by="operations")
    drain.drain(shop.settings, "drain", Watch())
    assert holds(platform.platform) == dict.fromkeys(range(1, 21), NO)


def test_what_cannot_be_undone(tmp_path: Path, platform: Standin) -> None:
    """No such run, or results that are gone; `--check` sends nothing."""
    shop = Shop(tmp_path, platform.url)
    shop.write({1: (None,) * 4})
    shop.init("empty")
    shop.write({1: YES})
    report = sync_job.run(shop.settings)
    with pytest.raises(ConfigError, match="No report of a run '77'"):
        undo.reading(shop.settings, "77")
    before = platform.requests
    found = planning.plan(shop.settings, Watch(), None, Wish(part=True), undo.reading(shop.settings, "2"))
    assert (found["requests"], platform.requests) == (1, before)
    (report.folder / "results.csv").unlink()
    with pytest.raises(ConfigError, match="nobody knows what was"):
        undo.reading(shop.settings, "2")
