"""Workbooks as people save them: ids that are floats, dates, errors, several sheets."""

import random
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.config import ExportSettings
from sync_job.consent.channels import FIELDS, letters
from sync_job.errors import ExportError
from sync_job.exports import excel, loader, sources
from sync_job.exports.blocks import Rejects
from tests import workbooks
from tests.workbooks import Raw, sheet

HEADER = ("Client", *FIELDS)
NOT_THERE = Raw('t="e"><v>#N/A</v>')


def _book(tmp_path: Path, *rows: Sequence[Any], **others: dict[int, Sequence[Any]]) -> Path:
    return workbooks.write(tmp_path / "a.xlsx", {"People": sheet(HEADER, *rows)} | others)


def _load(path: Path, **keys: Any) -> tuple[dict[int, str], list[tuple[int, str]]]:
    """Return what the workbook says of each client, and the line and reasons of each reject."""
    rejects: list[dict[str, Any]] = []

    def sink(found: Rejects) -> None:
        rejects.extend(found.table.to_pylist())

    conditions = ExportSettings.model_validate({"as_of": "none"} | keys)
    export = loader.load(conditions, ZoneInfo("UTC"), where=str(path), first_look=True, sink=sink)
    ids, values = export.statements.items()
    said = {int(id_): letters(int(byte)) for id_, byte in zip(ids, values, strict=True)}
    return said, [(row["reject_line"], row["reject_reasons"]) for row in rejects]


def test_a_workbook_is_an_export(tmp_path: Path) -> None:
    """By its content; ids are floats there and whole, flags are booleans, numbers or words."""
    said, rejects = _load(
        _book(tmp_path, (1, True, False, 1, 0.0), (2147483647, "да", "N", None, " 1 "), ("7", *"1010"))
    )
    assert said == {1: "TFTF", 2147483647: "TF-T", 7: "TFTF"}
    assert rejects == []


def test_a_row_is_told_by_excels_number(tmp_path: Path) -> None:
    """Blank rows are none and count, also above the header and beside it."""
    rows = {3: HEADER, 5: (1.5, 1, 1, 1, 1), 6: (), 7: ("", " "), 9: (8, 1, 1, 1, 2), 10: (9, 1, 1, 1, 1)}
    path = workbooks.write(tmp_path / "a.xlsx", {"L": rows}, first="C")
    said, rejects = _load(path)
    assert said[9] == "TTTT"
    assert rejects == [
        (5, "Client: not a whole number '1.5'"),
        (7, "Client: no id"),
        (9, "AllowEmailOnlineCheque: unknown token '2'"),
    ]


def test_an_error_of_a_formula_is_no_blank(tmp_path: Path) -> None:
    """It is an unknown token, as is a formula that was never calculated; one with a value is that value."""
    formula, empty = Raw('t="str"><f>A1</f><v>да</v>'), Raw("><f>A1</f>")
    said, rejects = _load(
        _book(
            tmp_path,
            (1, NOT_THERE, False, True, True),
            (2, formula, 1, 1, 1),
            (3, 1, 1, 1, empty),
            (NOT_THERE, *"1111"),
        )
    )
    assert said == {1: "-F--", 2: "TTTT", 3: "----"}
    assert rejects == [
        (2, "AllowSms: unknown token '#N/A'"),
        (4, f"AllowEmailOnlineCheque: unknown token '{excel.NOT_CALCULATED}'"),
        (5, "Client: not a whole number '#N/A'"),
    ]


def test_times_are_dates_of_excel(tmp_path: Path) -> None:
    """A later row wins by them; a number that only looks like a date is none."""
    header = (*HEADER, "at")
    rows = [
        (1, *"0000", date(2024, 5, 6)), (1, *"1111", datetime(2024, 5, 6, 12, 30)), (2, *"1111", 45000),
    ]  # fmt: skip
    path = workbooks.write(tmp_path / "a.xlsx", {"L": sheet(header, *rows)})
    said, rejects = _load(path, columns={"consent_changed_at": "at"})
    assert said == {1: "TTTT", 2: "----"}
    assert rejects == [(4, "at: no ISO 8601 time '45000'")]


def test_names_are_matched_as_in_text(tmp_path: Path) -> None:
    """Without case and blanks."""
    header = (" client ", "allow_sms", "Allow Email", "ALLOWPUSH", "AllowEmailOnlineCheque")
    assert _load(workbooks.write(tmp_path / "a.xlsx", {"L": sheet(header, (1, *"1111"))}))[0] == {1: "TTTT"}


def test_of_several_sheets_one_must_be_named(tmp_path: Path) -> None:
    """Those with anything in them; an empty one is not asked for."""
    path = _book(tmp_path, (1, *"1111"), Empty={}, Old=sheet(HEADER, (2, *"0000")))
    with pytest.raises(ExportError, match=r"2 sheets with something in them \('People', 'Old'\).*--sheet"):
        _load(path)
    assert _load(path, sheet="Old")[0] == {2: "FFFF"}
    assert _load(path, sheet="People")[0] == {1: "TTTT"}
    with pytest.raises(ExportError, match="no sheet 'New'; the workbook has 'People', 'Empty', 'Old'"):
        _load(path, sheet="New")
    with pytest.raises(ExportError, match="sheet 'Empty' has nothing in it"):
        _load(path, sheet="Empty")


def test_an_only_sheet_need_not_be_named(tmp_path: Path) -> None:
    """Excel makes three of which two stay empty."""
    assert _load(_book(tmp_path, (1, *"1111"), Sheet2={}, Sheet3={1: ("",)}))[0] == {1: "TTTT"}
    with pytest.raises(ExportError, match="the workbook has nothing in it"):
        _load(workbooks.write(tmp_path / "b.xlsx", {"Sheet1": {}}))


def test_a_damaged_workbook_is_refused(tmp_path: Path) -> None:
    """Cut short anywhere, or with bytes changed, it is read or refused, and never an error of ours."""
    path = _book(tmp_path, *[(number, True, False, NOT_THERE, "да") for number in range(1, 60)])
    whole, rnd = path.read_bytes(), random.Random(3)
    for attempt in range(150):
        damaged = bytearray(whole)
        if attempt % 3:
            for _ in range(rnd.randint(1, 4)):
                damaged[rnd.randrange(4, len(whole))] = rnd.randrange(256)
        else:
            del damaged[rnd.randrange(4, len(whole)) :]
        path.write_bytes(damaged)
        try:
            _load(path)
        except ExportError as exc:
            assert str(path) in str(exc)  # noqa: PT017 - it may be read as well


def test_a_zip_archive_that_is_no_workbook_is_refused(tmp_path: Path) -> None:
    """As a document of another office program."""
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"\xd0\xcf\x11\xe0" + bytes(2000))
    with pytest.raises(ExportError, match="damaged as an Excel workbook"):
        _load(path)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2**33), st.floats(0, 1e6).map(lambda one: round(one, 2)),
    st.text("ab 1", min_size=1),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=6))
def test_any_cells_are_read_as_what_they_are(tmp_path_factory: pytest.TempPathFactory, rows: list[list[Any]]) -> None:
    """Whole numbers without a fraction, words as they are; rows without anything are none."""

    def plain(cell: Any) -> str | None:
        if isinstance(cell, bool):
            return str(cell).upper()
        return (
            None if cell is None else str(int(cell)) if not isinstance(cell, str) and cell == int(cell) else str(cell)
        )

    path = workbooks.write(tmp_path_factory.getbasetemp() / "a.xlsx", {"L": sheet(("a", "b", "c"), *rows)})
    found = excel.read(sources.find(str(path), "excel")[0], ())
    batches = list(found.batches())
    assert found.names == ["a", "b", "c"]
    assert [tuple(row.values()) for batch in batches for row in batch.table.to_pylist()] == [
        tuple(map(plain, row)) for row in rows if any(cell is not None for cell in row)
    ]
