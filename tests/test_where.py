"""Which rows of a file are an export's, where it holds several brands."""

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.config import ExportSettings
from sync_job.consent.channels import letters
from sync_job.errors import ExportError
from sync_job.exports import loader, where
from sync_job.exports.blocks import Rejects

HEADER = "Operator,Client,AllowSms,Country"
COLUMNS = {"AllowEmail": "", "AllowPush": "", "AllowEmailOnlineCheque": ""}


def _load(path: Path, **keys: Any) -> tuple[loader.Export, dict[int, str], list[dict[str, Any]]]:
    """Return the export, what it says of Sms, and its rejects."""
    tables: list[pa.Table] = []

    def sink(rejects: Rejects) -> None:
        tables.append(rejects.table)

    conditions = ExportSettings.model_validate({"as_of": "none", "columns": COLUMNS} | keys)
    found = loader.load(conditions, ZoneInfo("UTC"), where=str(path), first_look=True, sink=sink)
    assert found.clients - found.in_rejects_only + found.duplicates + found.rejects == found.rows
    ids, values = found.statements.items()
    said = {int(id_): letters(int(byte))[0] for id_, byte in zip(ids, values, strict=True)}
    return found, said, [row for table in tables for row in table.to_pylist()]


def _written(tmp_path: Path, *rows: str, header: str = HEADER, as_parquet: bool = False) -> Path:
    path = tmp_path / "export"
    if as_parquet:
        table = [[cell or None for cell in row.split(",")] for row in rows]
        columns = {name: [row[place] for row in table] for place, name in enumerate(header.split(","))}
        pq.write_table(pa.table(columns), path)
    else:
        path.write_text("\n".join([header, *rows, ""]), "utf-8")
    return path


ROWS = ("3,1,1,RU", "4,1,0,RU", "3,2,0,KZ", "04,3,q,RU", ",4,1,RU", "3,x,1,RU", "3.0,5,1,RU", "34,6,1,RU")


@pytest.mark.parametrize("as_parquet", [False, True])
def test_other_rows_are_not_read(tmp_path: Path, as_parquet: bool) -> None:
    """Neither their consent nor their mistakes, and they are counted apart; lines are still the file's."""
    found, said, rejects = _load(_written(tmp_path, *ROWS, as_parquet=as_parquet), where={"Operator": 3})
    assert said == {1: "T", 2: "F", 5: "T"}
    assert (found.rows, found.others, found.counts()["others"], found.rejects) == (4, 4, 4, 1)
    assert [(row["reject_line"], row["reject_reasons"]) for row in rejects] == [
        (6 if as_parquet else 7, "Client: not a whole number 'x'")
    ]
    assert found.tokens["AllowSms"] == {"1": 3, "0": 1}


@pytest.mark.parametrize(
    ("conditions", "clients"),
    [
        ({"Operator": "3"}, {1, 2}),
        ({"Operator": [3, ""]}, {1, 2, 4, 5}),
        ({"Operator": 3, "Country": "KZ"}, {2}),
        ({"Country": [" KZ", "BY"]}, {2}),
        ({"Operator": [3, "34"]}, {1, 2, 5, 6}),
    ],
)
def test_all_columns_must_match(tmp_path: Path, conditions: dict[str, Any], clients: set[int]) -> None:
    """A text as it stands, a number however it is written, each of several values, and blanks by an empty text."""
    header = HEADER if "Operator" in conditions else HEADER.replace("Operator", "Brand")
    assert set(_load(_written(tmp_path, *ROWS, header=header), where=conditions)[1]) == clients


def test_several_brands_and_nothing_said_is_refused(tmp_path: Path) -> None:
    """With the values, their counts, and the line to write; in other spellings of its name as well."""
    why = r"column 'Operator' has several values: 3 \(3 rows\), 4 \(1 rows\).*Say \[export.where\] Operator = 3, or"
    with pytest.raises(ExportError, match=why):
        _load(_written(tmp_path, "3,1,1,RU", "4,2,1,RU", "03,3,1,RU", "3.0,4,1,RU"))
    with pytest.raises(ExportError, match=r'Say \[export.where\] "OPERATOR" = "b c", or'):
        _load(_written(tmp_path, "b c,1,1,RU", ",2,1,RU", header=HEADER.replace("Operator", "OPERATOR")))


def test_a_single_brand_is_no_question(tmp_path: Path) -> None:
    """However its number is written, and where the column is empty throughout."""
    assert set(_load(_written(tmp_path, "3,1,1,RU", " 03 ,2,1,RU"))[1]) == {1, 2}
    assert set(_load(_written(tmp_path, ",1,1,RU", " ,2,1,RU"))[1]) == {1, 2}


def test_brands_in_several_files_are_one_question(tmp_path: Path) -> None:
    """Also where their folders say which: Operator=3/ and Operator=4/ are one export of two brands."""
    for brand in (3, 4):
        folder = tmp_path / f"Operator={brand}"
        folder.mkdir()
        pq.write_table(pa.table({"Client": [brand], "AllowSms": ["1"]}), folder / "a.parquet")
    with pytest.raises(ExportError, match=r"3 \(1 rows\), 4 \(1 rows\)"):
        _load(tmp_path)
    found, said, _ = _load(tmp_path, where={"Operator": 4})
    assert (said, found.others) == ({4: "T"}, 1)


def test_a_column_that_is_missing_is_refused(tmp_path: Path) -> None:
    """On any night: without it every row would be another's, or everybody's."""
    path = _written(tmp_path, *ROWS)
    with pytest.raises(ExportError, match=r"no columns 'Brand', and \[export.where\] tells by it"):
        _load(path, where={"Operator": 3, "Brand": 1})


def test_an_export_of_others_alone_is_refused(tmp_path: Path) -> None:
    """A full export states every client."""
    with pytest.raises(ExportError, match=r"none of 8 rows is what \[export.where\] says"):
        _load(_written(tmp_path, *ROWS), where={"Operator": 5})


@pytest.mark.parametrize(
    "column",
    [
        pa.array([3, 4, None], pa.uint8()),
        pa.array([3.0, 4.0, None]),
        pa.array(["3", "4", None], pa.large_string()),
        pa.array([b"3", b"4", None]),
        pa.array(["3", "4", None]).dictionary_encode(),
        pa.array([3, 4, None]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_a_number_is_found_in_any_type(column: pa.Array) -> None:
    """A null is blank."""
    (three,) = where.conditions({"Operator": 3})
    (blank,) = where.conditions({"Operator": ("", 4)})
    assert three.matches(column).tolist() == [True, False, False]
    assert blank.matches(column).tolist() == [False, True, True]
    assert three.matches(pa.nulls(1)).tolist() == [False]


CELLS = st.one_of(st.none(), st.sampled_from(["3", "03", "3.0", " 3", "-3", "30", "a", "A", "", "3.5", "0", "00"]))
VALUES = st.one_of(st.sampled_from(["3", "a", "", " 03 "]), st.integers(-4, 4))


@settings(deadline=None)
@given(st.lists(CELLS, max_size=8), st.lists(VALUES, min_size=1, max_size=3))
def test_a_condition_is_a_plain_comparison(texts: list[str | None], values: list[str | int]) -> None:
    """Texts with texts and numbers with numbers, one by one."""

    def plain(text: str | None) -> bool:
        said = (text or "").strip()
        number = int(float(said)) if said and set(said) <= set("-0123456789.") and float(said) % 1 == 0 else None
        return any(said == one.strip() if isinstance(one, str) else one == number for one in values)

    (condition,) = where.conditions({"x": tuple(values)})
    assert condition.matches(pa.array(texts, pa.string())).tolist() == [plain(text) for text in texts]
