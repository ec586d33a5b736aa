"""Each recipe of docs/exports.md reads such a file, and what `check --infer` prints of it makes `check` succeed."""

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sync_job.config import ExportSettings, Settings
from sync_job.consent.channels import letters
from sync_job.exports import lists, loader
from tests import workbooks
from tests.commands import Cli
from tests.workbooks import sheet

ROOT = Path(__file__).resolve().parent.parent
DOC = (ROOT / "docs" / "exports.md").read_text("utf-8")
NBSP = "\u00a0"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


def _recipe(heading: str) -> tuple[str, dict[str, Any]]:
    """Return the file and the configuration that stand below a heading."""
    text = DOC.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = dict(re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    return found["text"], tomllib.loads(found.get("toml", ""))


@dataclass(frozen=True)
class Recipe:
    """How a file is made of the text that is shown, and what it says of each client."""

    heading: str
    name: str
    make: Callable[[Path, str], None]
    said: dict[int, str]
    rejects: int = 0


def _as(code: str, newline: str = "\n", more: str = "") -> Callable[[Path, str], None]:
    def make(path: Path, text: str) -> None:
        path.write_bytes((text + more).replace("\n", newline).encode(code))

    return make


def _excel(path: Path, text: str) -> None:
    _as("cp1251", "\r\n")(path, re.sub(r"^(\d) (\d{3});", rf"\1{NBSP}\2;", text, flags=re.MULTILINE))


def _spark(path: Path, text: str) -> None:
    """Write the files that the text names, half of the table each."""
    flags = pa.array([True, False, None, True])
    for line in text.split():
        file = path.parent / line
        file.parent.mkdir(parents=True, exist_ok=True)
        half = 0 if "part-00000" in line else 4
        columns = {name: flags.take(pa.array([(place + shift) % 4 for place in range(4)])) for shift, name in _SPARK}
        table = pa.table({"client_id": pa.array(range(1201 + half, 1205 + half), pa.int64())} | columns)
        if file.suffix == ".parquet":
            pq.write_table(table, file)
    (path / "_SUCCESS").touch()  # last, as Spark does


_SPARK = list(enumerate(("sms", "email", "push", "receipt")))
_HALF = ("TF-T", "F-TT", "-TTF", "TTF-")
_SAP = "".join(f"{place:010};N;X;;;\n" for place in range(2000, 2040))

RECIPES = [
    Recipe("Excel in a Russian locale", "e.csv", _excel, {1204: "TFFT", 1205: "TF-T", 77: "FTFF"}),
    Recipe("1C", "c.txt", _as("utf-8-sig", "\r\n"), {1204: "TFFT", 1205: "FFT-"}),
    Recipe("Salesforce", "contacts_2026-11-24.csv", _as("utf-8"), {1204: "TTFT", 1205: "FFF-"}),
    Recipe("Oracle", "o.csv", _as("utf-8"), {1204: "TFFT", 1205: "TFT-"}),
    Recipe(
        "SAP",
        "s.csv",
        _as("utf-8", "\r\n", _SAP),
        {1204: "TFFT", 1205: "FFTF", 77: "FTFF"} | dict.fromkeys(range(2000, 2040), "TFFF"),
    ),
    Recipe("A Spark folder", "consents", _spark, {1201 + place: _HALF[place % 4] for place in range(8)}),
    Recipe("JSON lines from an event pipeline", "events.jsonl", _as("utf-8"), {1204: "FF--", 1205: "FFT-"}),
]
_BY_HEADING = {recipe.heading: recipe for recipe in RECIPES}


@pytest.fixture(params=list(_BY_HEADING))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """Return each recipe in turn."""
    return _BY_HEADING[request.param]


def _read(where: Path, export: dict[str, Any]) -> tuple[dict[int, str], loader.Export]:
    settings = ExportSettings.model_validate(export | {"path": str(where)})
    found = loader.load(settings, ZoneInfo("UTC"), where=str(where), first_look=True)
    ids, values = found.statements.items()
    return {id_: letters(byte) for id_, byte in zip(ids.tolist(), values.tolist(), strict=True)}, found


def test_every_recipe_is_held_by_a_test() -> None:
    """The headings of docs/exports.md with a file are those of this module."""
    headings = [part.split("\n", 1)[0] for part in DOC.split("\n## ")[1:] if "\n```text\n" in part]
    assert headings == [*_BY_HEADING, "A list of withdrawals in a workbook", "A list of e-mail addresses"]


def test_a_recipe_reads_such_a_file(tmp_path: Path, recipe: Recipe) -> None:
    """With the configuration that is shown, to the letter; every row is understood."""
    text, configuration = _recipe(recipe.heading)
    recipe.make(tmp_path / recipe.name, text)
    said, export = _read(tmp_path / recipe.name, configuration["export"])
    assert said == recipe.said
    assert not export.reasons
    assert export.as_of is not None


def test_what_is_inferred_makes_check_succeed(tmp_path: Path, recipe: Recipe, cli: Cli) -> None:
    """Pasted as it is, with nothing said but `as_of`: check ends in 0, and grants no more than the recipe does."""
    text, _ = _recipe(recipe.heading)
    path = tmp_path / recipe.name
    recipe.make(path, text)
    inferred = cli("check", path, "--infer")
    assert inferred.code == 0, inferred.err
    assert tomllib.loads(inferred.out)["export"].get("as_of") is None
    section = inferred.out.replace("# as_of = ", "as_of = ", 1)
    config = tmp_path / "guessed.toml"
    config.write_text(f'{section}\n[endpoint]\nbase_url = "http://127.0.0.1:9"\n', "utf-8")
    checked = cli("check", path, "--config", config, "--json")
    assert checked.code == 0, checked.err
    export = tomllib.loads(section)["export"]
    granted = {(client, place) for client, byte in recipe.said.items() for place in range(4) if byte[place] == "T"}
    for client, byte in _read(path, export)[0].items():
        assert client in recipe.said
        assert {(client, place) for place in range(4) if byte[place] == "T"} <= granted, client


def test_a_guess_has_the_columns_of_the_recipe(tmp_path: Path, recipe: Recipe, cli: Cli) -> None:
    """Client and channels are found by their names in each of the systems, and each guess says why."""
    text, configuration = _recipe(recipe.heading)
    recipe.make(tmp_path / recipe.name, text)
    guesses = json.loads(cli("check", tmp_path / recipe.name, "--infer", "--json").out)["guesses"]
    assert all(one["why"] for one in guesses)
    found = {one["key"]: one["value"] for one in guesses if one["section"] == "export.columns" and one["decided"]}
    wanted = {name: column for name, column in configuration["export"]["columns"].items() if name in found}
    assert found == wanted
    assert len(found) == 5
    inverted = [one["value"] for one in guesses if one["key"] == "inverted"]
    assert inverted == [one for one in [configuration["export"].get("inverted")] if one]


def test_a_list_of_withdrawals_in_a_workbook(tmp_path: Path) -> None:
    """Its own names of columns; a date is the whole day."""
    text, configuration = _recipe("A list of withdrawals in a workbook")
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    cells = [(int(id_), datetime.strptime(day, "%d.%m.%Y").date(), ref) for id_, day, ref in rows[1:]]
    path = workbooks.write(tmp_path / "opt-outs.xlsx", {"Лист1": sheet(rows[0], *cells)})
    found = lists.read_withdrawals(str(path), _settings(configuration), now=NOW)
    assert found.rejected == 0
    assert found.table.column("client").to_pylist() == [1204, 1205]
    assert found.table.column("request_ref").to_pylist() == ["З-17", "З-18"]
    received = [datetime.fromtimestamp(one, UTC).isoformat() for one in found.table.column("received_at").to_pylist()]
    assert received == ["2026-11-24T00:00:00+00:00", "2026-11-23T00:00:00+00:00"]


def test_a_list_of_addresses_is_looked_up(tmp_path: Path) -> None:
    """Whoever has one of them is denied, in any case of its letters; nobody's is a reject."""
    text, configuration = _recipe("A list of e-mail addresses")
    (tmp_path / "unsubscribed.csv").write_text(text)
    (tmp_path / "addresses.csv").write_text("email,Client\npetr@example.com,1204\nanna@example.com,1205\n")
    found = lists.read_withdrawals(
        str(tmp_path / "unsubscribed.csv"),
        _settings(configuration),
        received_at=NOW - 60,
        scope="email",
        basis="objection",
        contacts=str(tmp_path / "addresses.csv"),
        now=NOW,
    )
    assert sorted(found.table.column("client").to_pylist()) == [1204, 1205]
    assert found.rejected == 1


def _settings(configuration: dict[str, Any]) -> Settings:
    sections = {"export": {"as_of": "none"}, "endpoint": {"base_url": "https://platform.example.com"}}
    return Settings.model_validate(sections | configuration)
