"""`[export] id_map`: exports and lists speak of the CRM's ids, everything else of the platform's."""

import csv
import hashlib
import random
import time
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import sync_job
from sync_job.config import ExportSettings
from sync_job.errors import ConfigError, Exit, ExportError
from sync_job.exports import lists, loader
from sync_job.exports.loader import Export
from sync_job.runs import dump, explain, forgetting, init, planning, withdrawing
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin
from tests.commands import Cli
from tests.shop import FIELDS, NO_GUARDS, Consent, Shop, holds

YES, NO = (True,) * 4, (False,) * 4
UTC = ZoneInfo("UTC")
CRM = {101: 1, 102: 2, 103: 3, 203: 3}


def write_map(path: Path, pairs: Mapping[int, int]) -> Path:
    """Write a map, and return its path."""
    path.write_text("crm_id,platform_id\n" + "".join(f"{crm},{platform}\n" for crm, platform in pairs.items()))
    return path


def sha256(path: Path) -> str:
    """Return what `sha256sum` says of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path, id_map: Path | None, **said: object) -> Export:
    """Return an export that is read with a map."""
    settings = ExportSettings.model_validate({"as_of": "none", "id_map": id_map, **said})
    return loader.load(settings, UTC, where=str(path), first_look=True)


def stated(export: Export) -> dict[int, int]:
    """Return what an export states, by client."""
    return dict(zip(*(part.tolist() for part in export.statements.items()), strict=True))


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def shop(tmp_path: Path, platform: Standin) -> Shop:
    """Return a shop whose CRM has other ids than the platform."""
    made = Shop(tmp_path, platform.url, guards=NO_GUARDS)
    text = made.config.read_text().replace("[export]", '[export]\nid_map = "ids.csv"', 1)
    made.config.write_text(text)
    write_map(tmp_path / "ids.csv", CRM)
    return made


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_who_is_not_in_the_map_is_a_reject(tmp_path: Path, form: str) -> None:
    """Never sent under the CRM's id, not even denied; two ids of one client are rows of it, and denied wins."""
    rows = ["101,true,true,,", "102,false,,,", "1,true,,,", "103,true,true,,", "203,false,,,", "999,false,,,"]
    path = tmp_path / "export.csv"
    path.write_text("Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n" + "\n".join(rows) + "\n")
    if form == "parquet":
        table = pa.csv.read_csv(path)
        path = tmp_path / "export.parquet"
        pq.write_table(table, path)
    found = load(path, write_map(tmp_path / "ids.csv", CRM))
    assert set(stated(found)) == {1, 2, 3}
    assert stated(found)[3] & 0b1111 == 0b1001, "Sms denied by one of two rows, Email allowed by the other"
    assert (found.rows, found.clients, found.duplicates, found.rejects) == (6, 3, 1, 2)
    assert found.conflicting.tolist() == [3]
    assert dict(found.reasons) == {"Client: not in id_map": 2}
    assert found.counts()["id_map"] == {
        "path": str(tmp_path / "ids.csv"),
        "sha256": sha256(tmp_path / "ids.csv"),
        "rows": len(CRM),
    }


def test_a_row_that_is_cut_short_bars_the_right_client(tmp_path: Path) -> None:
    """The platform's client is granted nothing, not the one who happens to have the CRM's number."""
    path = tmp_path / "export.csv"
    path.write_text(",".join(["Client", *FIELDS]) + "\n101,true,true,true,true\n102,true\n")
    found = load(path, write_map(tmp_path / "ids.csv", CRM | {2: 5}))
    assert found.ungranted.tolist() == [2]


@pytest.mark.parametrize("spread", [1, 1000])
def test_a_map_reads_as_an_export_with_the_other_ids(tmp_path: Path, spread: int) -> None:
    """Whether the CRM's ids lie close together or far apart."""
    rng = random.Random(spread)
    pairs = {spread * crm: rng.randrange(1, 5000) for crm in range(1, 3000)}
    flags = {crm: [rng.choice(("true", "false", "")) for _ in FIELDS] for crm in pairs}
    files = {}
    for name, ids in (("crm", {crm: crm for crm in pairs}), ("own", pairs)):
        files[name] = tmp_path / f"{name}.csv"
        with files[name].open("w", newline="") as file:
            csv.writer(file).writerows([["Client", *FIELDS], *([ids[crm], *flags[crm]] for crm in pairs)])
    found = load(files["crm"], write_map(tmp_path / "ids.csv", pairs))
    assert stated(found) == stated(load(files["own"], None))
    assert found.duplicates == len(pairs) - len(set(pairs.values()))


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("crm_id,platform_id\n1,2\n1,3\n", ConfigError, r"more than one 'platform_id' \(line 2: 1 to 2; line 3: 1 to"),
        ("crm_id,platform_id\n1,2\nA7,3\n", ConfigError, r"1 rows are not two ids \(line 3\)"),
        ("Client,platform_id\n1,2\n", ExportError, "one column 'crm_id' and one 'platform_id'"),
        ("crm_id,platform_id\n", ConfigError, "a map without rows"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, error: type[Exception], said: str) -> None:
    """Before a row of the export is read by it."""
    (tmp_path / "ids.csv").write_text(text)
    (tmp_path / "export.csv").write_text(",".join(["Client", *FIELDS]) + "\n1,true,true,true,true\n")
    with pytest.raises(error, match=said):
        load(tmp_path / "export.csv", tmp_path / "ids.csv")


def test_a_night_sends_the_platforms_ids_alone(shop: Shop, platform: Standin) -> None:
    """The path is relative to the configuration; the report names the map; `explain` goes by the platform's id."""
    people: dict[int, Consent] = {101: YES, 102: NO, 103: YES, 203: NO, 777: YES}
    shop.write(people)
    shop.init("empty")
    report = sync_job.run(shop.settings)
    assert holds(platform.platform) == {1: YES, 2: NO, 3: NO}
    assert report.summary["export"]["id_map"]["sha256"] == sha256(shop.folder / "ids.csv")
    found = explain.explain(shop.settings, 3, Watch(), with_export=True)
    assert [row["text"].split(",")[0] for row in found["rows"]] == ["103", "203"]
    assert "777" in (report.folder / "rejects.csv").read_text()


def test_lists_speak_of_the_crms_ids(shop: Shop, tmp_path: Path) -> None:
    """Withdrawals, ids alone, and evidence; but a column platform_id has the platform's."""
    settings, now = shop.settings, time.time()
    path = tmp_path / "list.csv"
    for text, clients, rejected in (
        ("Client,request_ref\n101,a\n203,b\n2,c\n", [1, 3], 1),
        ("101\n102\n", [1, 2], 0),
        ("crm,platform_id\n101,2\n", [2], 0),
    ):
        path.write_text(text)
        found = lists.read_withdrawals(str(path), settings, received_at=now, now=now)
        assert found.table.column("client").to_pylist() == clients
        assert (found.rejected, dict(found.reasons)) == (rejected, {"Client: not in id_map": 1} if rejected else {})
    assert forgetting.clients(settings, [], str(path)).tolist() == [2]
    assert forgetting.clients(settings, [2], None).tolist() == [2], "on the command line ids are the platform's"
    path.write_text("Client,channels,granted_at,method,evidence_ref\n103,sms,2020-01-01,form,E\n")
    assert lists.read_reconsents(str(path), settings, now=now).table.column("client").to_pylist() == [3]


def test_what_we_wrote_is_read_as_it_was_meant(shop: Shop, tmp_path: Path) -> None:
    """`blocked.csv` and the export of withdrawals have the platform's ids, and are not taken for the CRM's."""
    write_map(shop.folder / "ids.csv", CRM | {1: 3, 3: 1})
    shop.write({101: YES, 103: YES})
    shop.init("equal")
    shop.withdraw({101: "sms"})
    report = sync_job.run(shop.settings)
    blocked = rows_of(report.folder / "blocked.csv")
    assert [row["Client"] for row in blocked] == ["1"]
    path = tmp_path / "evidence.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(blocked[0]))
        writer.writeheader()
        tomorrow = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        writer.writerow(blocked[0] | {"granted_at": tomorrow, "method": "form", "evidence_ref": "E-1"})
    assert withdrawing.reconsent(shop.settings, str(path), {})["lifted"] == 1
    out = tmp_path / "withdrawals.csv"
    assert withdrawing.export(shop.settings, out) == 1
    found = lists.read_withdrawals(str(out), shop.settings, now=time.time())
    assert found.table.column("client").to_pylist() == [1]


def test_a_dump_has_the_platforms_ids(shop: Shop, tmp_path: Path) -> None:
    """It comes from there."""
    path = tmp_path / "dump.csv"
    path.write_text(",".join(["Client", *FIELDS]) + "\n2,true,false,,\n")
    assert dump.read(shop.settings, str(path), Watch()).items()[0].tolist() == [2]


def test_a_plan_made_with_another_map_is_refused(shop: Shop, tmp_path: Path) -> None:
    """Its clients were others; the same content elsewhere is the same map."""
    shop.write({101: YES, 102: NO})
    shop.init("equal")
    shop.write({101: NO, 102: NO})
    planning.plan(shop.settings, Watch(), tmp_path / "plan", Wish())
    write_map(shop.folder / "ids.csv", CRM | {101: 2, 102: 1})
    with pytest.raises(ConfigError, match=r"another \[export\] section"):
        planning.apply(shop.settings, tmp_path / "plan", Watch())
    write_map(shop.folder / "other.csv", CRM)
    shop.config.write_text(shop.config.read_text().replace('"ids.csv"', '"other.csv"'))
    assert planning.apply(shop.settings, tmp_path / "plan", Watch()).exit_code == Exit.OK


def test_rejects_of_who_is_erased_go_by_the_crms_id(shop: Shop) -> None:
    """Reports have a reject as the CRM wrote it; the others stay."""
    shop.write({101: YES, 102: NO})
    shop.init("equal")
    with shop.export.open("a") as file:
        file.write("101,perhaps,,,\n102,perhaps,,,\n")
    report = sync_job.run(shop.settings)
    forgetting.forget(shop.settings, np.array([1], np.int32), "R-1", Watch())
    assert [row["Client"] for row in rows_of(report.folder / "rejects.csv")] == ["102"]


def test_init_ignores_who_was_erased_by_the_platforms_id(shop: Shop) -> None:
    """The codes are of the platform's ids."""
    shop.write({101: NO, 102: YES})
    shop.init("equal")
    forgetting.forget(shop.settings, np.array([1], np.int32), "R-1", Watch())
    shop.settings.state.path.rename(shop.folder / "lost")
    next(shop.settings.state.keys.glob("*.anchor.json")).unlink()
    init.init(shop.settings, "equal", lambda grants: grants, Watch())
    with shop.state() as state:
        assert state.holdings().client.tolist() == [2]


def test_check_shows_the_map(shop: Shop, cli: Cli) -> None:
    """With its digest, so that it can be compared."""
    shop.write({101: YES})
    said = cli("check", shop.export, "--config", shop.config)
    assert f"ids.csv: id_map, {len(CRM)} rows" in said.out
    assert sha256(shop.folder / "ids.csv") in said.out
