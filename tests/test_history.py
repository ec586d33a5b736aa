"""`history` of one client: every request in the reports that are kept, and what was answered."""

import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sync_job
from sync_job.errors import NoStateError, StorageError
from sync_job.report import people_text
from sync_job.report.results import SCHEMA
from sync_job.runs import drain
from sync_job.runs.history import history
from sync_job.runs.watch import Watch
from sync_job.standin.background import running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.shop import Shop

YES, NO = (True, True, True, True), (False, False, False, False)


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_every_request_is_there_with_its_answer_the_oldest_first(tmp_path: Path, format_: str) -> None:
    """Granted, withdrawn, refused: what was sent each time, in which lane, and what came back."""
    refuse: list[bool] = []
    with running(Options(script=lambda _, client: Fault.REFUSE if refuse and client == 5 else None)) as platform:
        shop = Shop(tmp_path, platform.url, more=f'[report]\nresults = "{format_}"')
        shop.write({5: YES, 6: NO})
        shop.init("empty")
        sync_job.run(shop.settings)
        digest = shop.withdraw({5: "sms", 6: "all"})
        drain.drain(shop.settings, "drain", Watch())
        refuse.append(True)
        shop.write({5: (True, False, True, True), 6: NO})
        sync_job.run(shop.settings)
        found = history(shop.settings, 5)
    sent = found["sent"]
    assert [one["run"][:4] for one in sent] == ["0002", "0003", "0004"]
    assert [(one["lane"], one["sent"], one["outcome"]) for one in sent] == [
        ("grant", "TTTT", "delivered"),
        ("obligation", "F---", "delivered"),
        ("revocation", "FF--", "refused"),
    ]
    assert [one["code"] for one in sent][:2] == [0, 0]
    assert sent[2]["code"] != 0
    assert all(one["status"] == 200 and one["attempts"] == 1 and one["settled"] for one in sent)
    assert set(sent[0]) == {"run", *SCHEMA.names} - {"Client"}
    assert [(one["channels"], one["list"]) for one in found["withdrawals"]] == [("Sms", digest)]
    said = people_text.history(found)
    assert "client 5" in said
    assert "3 requests" in said
    assert said.index("0002-") < said.index("0003-") < said.index("0004-")
    assert f"on list {digest[:12]}" in said


def test_a_client_of_whom_nothing_is_kept_has_an_empty_history(tmp_path: Path) -> None:
    """No reports at all, or none that names it: that is an answer, and no error."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({5: YES})
        with pytest.raises(NoStateError):
            history(shop.settings, 5)
        shop.init("equal")
        shutil.rmtree(tmp_path / "reports")
        for client in (5, 6):
            found = history(shop.settings, client)
            assert (found["sent"], found["withdrawals"], found["reconsents"]) == ([], [], [])
            assert "0 requests" in people_text.history(found)


def test_the_history_of_one_target_has_nothing_of_another(tmp_path: Path) -> None:
    """Two brands with one folder of reports: the same id is two people."""
    with running(Options()) as platform:
        shops = []
        for name, operator in (("one", 7), ("other", 8)):
            (tmp_path / name).mkdir()
            shop = Shop(tmp_path / name, platform.url, more=f"[report]\npath = '{tmp_path / 'reports'}'")
            shop.config.write_text(shop.config.read_text().replace("operator = 7", f"operator = {operator}"))
            shop.write({5: YES if operator == 7 else NO})
            shop.init("empty")
            sync_job.run(shop.settings)
            shops.append(shop)
            time.sleep(1.1 - time.time() % 1)  # a report's folder is named by its second
        assert [[one["sent"] for one in history(shop.settings, 5)["sent"]] for shop in shops] == [["TTTT"], ["FFFF"]]


def test_results_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A history that lacks a run without saying so would be a false answer."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url, more='[report]\nresults = "parquet"')
        shop.write({5: YES})
        shop.init("empty")
        report = sync_job.run(shop.settings)
        path = report.folder / "results.parquet"
        assert pq.read_metadata(path).num_rows == 1
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(StorageError, match=r"results\.parquet: no results that can be read"):
            history(shop.settings, 5)


def test_a_message_of_several_lines_is_one_answer(tmp_path: Path) -> None:
    """What the platform says may have anything in it, commas, quotes and newlines among it."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({5: YES, 6: YES})
        shop.init("empty")
        report = sync_job.run(shop.settings)
        path = report.folder / "results.csv"
        head, *rows = path.read_text().splitlines()
        mine = next(place for place, row in enumerate(rows) if row.startswith("5,"))
        cells = rows[mine].split(",")
        cells[SCHEMA.names.index("message")] = '"no, ""really""\nno"'
        rows[mine] = ",".join(cells)
        path.write_text("\n".join([head, *rows, ""]))
        (one,) = history(shop.settings, 5)["sent"]
        assert one["message"] == 'no, "really"\nno'
        assert one["outcome"] == "delivered"
