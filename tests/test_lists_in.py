"""Lists that come in: what a row says, what is said for it, what is rejected, and that no good row is ever lost."""

import csv as python_csv
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sync_job.config import Settings
from sync_job.consent import lists as words
from sync_job.consent.channels import CHANNELS, LOW_BITS
from sync_job.errors import ConfigError, ExportError
from sync_job.exports import csv as csv_files
from sync_job.exports import lists, parquet
from sync_job.exports.lists import List
from tests import workbooks

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86400.0
SMS, EMAIL, PUSH, CHEQUE = 1, 4, 16, 64
SAID: dict[str, Any] = {"received_at": NOW - HOUR, "scope": "all", "basis": "objection"}


def _settings(**keys: Any) -> Settings:
    """Return settings in which nothing is said of lists, but for *keys* of [withdrawals]."""
    sections: dict[str, Any] = {
        "run": {"timezone": "Europe/Moscow"},
        "export": {"as_of": "none", "columns": {"Client": "ClientId"}},
        "endpoint": {"base_url": "https://loyalty.example.com/partner"},
        "withdrawals": keys,
    }
    return Settings.model_validate(sections)


def _csv(tmp_path: Path, *rows: str, name: str = "a.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join([*rows, ""]), encoding="utf-8")
    return path


def _read(where: Path | str, said: dict[str, Any] = SAID, /, *, under: Settings | None = None, **more: Any) -> List:
    found = lists.read_withdrawals(str(where), under or _settings(), **({"now": NOW} | said | more))
    assert found.rows - found.rejected >= found.table.num_rows > 0
    assert len(found.rejects) == min(found.rejected, lists.REJECTS_KEPT)
    return found


def _evidence(where: Path, **more: Any) -> List:
    return lists.read_reconsents(str(where), _settings(), **({"now": NOW} | more))


def _column(found: List, name: str) -> list[Any]:
    return list(found.table.column(name).to_pylist())


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# words


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("all", 85),
        ("ALL", 85),
        (" marketing ", SMS | EMAIL | PUSH),
        ("Sms", SMS),
        ("email,push", EMAIL | PUSH),
        ("AllowEmailOnlineCheque", CHEQUE),
        ("allowsms; EMAIL", SMS | EMAIL),
        ("Sms|Email Push", SMS | EMAIL | PUSH),
        ("sms,,sms,", SMS),
    ],
)
def test_a_scope_is_read_however_it_is_written(text: str, bits: int) -> None:
    """With commas, semicolons, bars or blanks, with or without Allow, in any case."""
    assert words.scope(text) == bits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no channel"),
        (" ,; ", "no channel"),
        ("fax", "'fax' is no channel"),
        ("sms,fax", "'fax'"),
        ("all,sms", "'all'"),
        ("marketing push", "'marketing'"),
        ("allow", "'allow'"),
        ("alll", "'alll'"),
    ],
)
def test_a_scope_that_means_nothing_says_what_is_wrong(text: str, said: str) -> None:
    """Nothing is guessed: a word too many makes the rest doubtful."""
    with pytest.raises(ValueError, match=said):
        words.scope(text)


@given(st.sets(st.sampled_from(range(4)), min_size=1))
def test_a_scope_is_read_back_from_its_text(places: set[int]) -> None:
    """`scope_text` and `scope` are each other's inverse, and only low bits are set."""
    bits = sum(1 << 2 * place for place in places)
    assert bits & ~int(LOW_BITS) == 0
    assert words.scope(words.scope_text(bits)) == bits
    assert words.scope_text(bits).split() == [CHANNELS[place] for place in sorted(places)]


# what a row says, and what is said for it


def test_a_row_says_everything_itself(tmp_path: Path) -> None:
    """A cell wins over what is said for all rows; times without a zone are local, and a date is its 00:00."""
    rows = [
        "Client,received_at,withdrawn_at,scope,basis,request_ref",
        "7,2026-11-20,2026-11-19 23:30,marketing,complaint,R-1",
        '3,2026-11-20T10:00:00Z,,"Sms, EmailOnlineCheque",ERASURE,',
    ]
    found = _read(_csv(tmp_path, *rows), request_ref="letter")
    assert found.table.to_pylist() == [
        {
            "client": 3,
            "given": 0,
            "channels": SMS | CHEQUE,
            "received_at": _time("2026-11-20T10:00:00+00:00"),
            "withdrawn_at": _time("2026-11-20T10:00:00+00:00"),
            "basis": words.BASES.index("erasure"),
            "request_ref": "letter",
        },
        {
            "client": 7,
            "given": 0,
            "channels": SMS | EMAIL | PUSH,
            "received_at": _time("2026-11-20T00:00:00+03:00"),
            "withdrawn_at": _time("2026-11-19T23:30:00+03:00"),
            "basis": words.BASES.index("complaint"),
            "request_ref": "R-1",
        },
    ]
    assert (found.rows, found.rejected, found.rejects, found.source) == (2, 0, [], "a.csv")


def test_the_types_are_those_of_the_ledger(tmp_path: Path) -> None:
    """Whatever the file holds."""
    schema = _read(_csv(tmp_path, "1")).table.schema
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "client": "int32",
        "given": "int32",
        "channels": "uint8",
        "received_at": "double",
        "withdrawn_at": "double",
        "basis": "uint8",
        "request_ref": "string",
    }


def test_what_no_cell_says_is_said_for_all(tmp_path: Path) -> None:
    """Of blank cells and of missing columns alike."""
    found = _read(_csv(tmp_path, "Client,scope,received_at", "1,,", "2, ,2026-11-01", "3,sms,  "))
    assert _column(found, "channels") == [85, 85, SMS]
    assert _column(found, "received_at") == [NOW - HOUR, _time("2026-11-01T00:00+03:00"), NOW - HOUR]
    assert set(_column(found, "basis")) == {words.BASES.index("objection")}


def test_what_nobody_says_comes_from_the_settings(tmp_path: Path) -> None:
    """The command line goes before them."""
    under = _settings(scope="push", basis="erasure")
    path = _csv(tmp_path, "1")
    found = _read(path, {"received_at": NOW}, under=under)
    assert found.table.select(["channels", "basis"]).to_pylist() == [{"channels": PUSH, "basis": 2}]
    found = _read(path, under=under)
    assert found.table.select(["channels", "basis"]).to_pylist() == [{"channels": 85, "basis": 1}]


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("received_at", ["--received-at"]),
        ("scope", ["--scope", "[withdrawals] scope"]),
        ("basis", ["--basis", "[withdrawals] basis"]),
    ],
)
def test_what_nothing_says_is_asked_for(tmp_path: Path, missing: str, says: list[str]) -> None:
    """No hidden default: the error names the option."""
    said = {name: value for name, value in SAID.items() if name != missing}
    with pytest.raises(ConfigError) as told:
        _read(_csv(tmp_path, "1"), said)
    assert all(one in str(told.value) for one in says)


@pytest.mark.parametrize(("name", "value"), [("scope", "everything"), ("basis", "whim")])
def test_what_is_said_for_all_and_means_nothing_is_refused(tmp_path: Path, name: str, value: str) -> None:
    """Before any row is read, and also where every row speaks for itself."""
    path = _csv(tmp_path, "Client,scope,basis", "1,sms,objection")
    with pytest.raises(ConfigError, match=f"--{name} {value}"):
        _read(path, SAID | {name: value})


# columns


def test_ids_alone_are_a_list(tmp_path: Path) -> None:
    """A first line that is a number is an id and no header; so is one that tries to be."""
    assert _column(_read(_csv(tmp_path, "5", "3")), "client") == [3, 5]
    assert _column(_read(_csv(tmp_path, '"5"', '"3"')), "client") == [3, 5]
    assert _column(_read(_csv(tmp_path, "\ufeff 5", "3")), "client") == [3, 5]
    found = _read(_csv(tmp_path, "5x", "3"))
    assert (_column(found, "client"), found.rejects[0].line, found.rejects[0].raw) == ([3], 1, "5x")


def test_a_single_column_is_the_clients_whatever_it_is_called(tmp_path: Path) -> None:
    """Nothing else could be meant."""
    assert _column(_read(_csv(tmp_path, "card holder", "5", "3")), "client") == [3, 5]


def test_the_clients_column_may_be_called_as_in_exports(tmp_path: Path) -> None:
    """The configured name goes first."""
    assert _column(_read(_csv(tmp_path, "ClientId,scope", "5,sms")), "client") == [5]
    assert _column(_read(_csv(tmp_path, "ClientId,Client", "5,6")), "client") == [6]


def test_columns_are_mapped_for_one_list(tmp_path: Path) -> None:
    """By the settings, and by --map before them."""
    path = _csv(tmp_path, "Kunde,Umfang,Weg", "5,sms,push")
    under = _settings(columns={"client": "Kunde", "scope": "Umfang"})
    assert _column(_read(path, under=under), "channels") == [SMS]
    assert _column(_read(path, under=under, columns={"Scope": "Weg"}), "channels") == [PUSH]


def test_a_mapped_column_that_is_missing_is_told(tmp_path: Path) -> None:
    """What the rows say would be passed over otherwise, for what is said for all."""
    with pytest.raises(ExportError, match="no column 'Umfan', which --map names; the header has 'Client', 'Umfang'"):
        _read(_csv(tmp_path, "Client,Umfang", "5,sms"), columns={"scope": "Umfan"})


def test_a_column_that_lists_do_not_have_is_told(tmp_path: Path) -> None:
    """The error has those that there are."""
    with pytest.raises(ConfigError, match="--map phone=Tel: a list has no 'phone'; it has client, received_at"):
        _read(_csv(tmp_path, "Client,Tel", "5,1"), columns={"phone": "Tel"})


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("Kunde,scope", "no column 'Client'; the header has 'Kunde', 'scope'.*--map client=NAME"),
        ("Client;scope", "not one row"),
        ("Client,scope,scope", "'scope' twice"),
    ],
)
def test_a_list_whose_columns_are_in_doubt_is_refused(tmp_path: Path, header: str, says: str) -> None:
    """No column is guessed."""
    row = ",".join(["5", "sms", "push"][: header.count(",") + 1])
    with pytest.raises(ExportError, match=says):
        _read(_csv(tmp_path, header, row))


# rejects


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("x,,,,", "Client: not a whole number 'x'"),
        (",,,,", "Client: no id"),
        ("0,,,,", "Client: outside 1 to 2147483647 '0'"),
        ("5,soon,,,", "received_at: no ISO 8601 time 'soon'"),
        ("5,,soon,,", "withdrawn_at: no ISO 8601 time 'soon'"),
        ("5,2026-11-24T12:16Z,,,", "received_at: in the future"),
        ("5,2026-11-20,2026-11-21T00:00:01,,", "withdrawn_at: after it was received"),
        ("5,,,fax,", "scope: no known scope 'fax'"),
        ("5,,,,whim", "basis: no known basis 'whim'"),
        ("x,soon,,,", "Client: not a whole number 'x'; received_at: no ISO 8601 time 'soon'"),
        ("5,,", "too few or too many fields"),
        ("5,,,,,,", "too few or too many fields"),
    ],
)
def test_a_bad_row_is_rejected_with_its_line_and_reason(tmp_path: Path, row: str, why: str) -> None:
    """And its neighbours are taken."""
    rows = ["Client,received_at,withdrawn_at,scope,basis", "1,,,,", "", row, "2,,,sms,"]
    found = _read(_csv(tmp_path, *rows))
    assert _column(found, "client") == [1, 2]
    assert [(one.file, one.line, one.why, one.raw) for one in found.rejects] == [
        (str(tmp_path / "a.csv"), 4, why, row if "fields" in why else found.rejects[0].raw)
    ]
    assert found.rejects[0].raw.startswith(row.split(",")[0])
    assert (found.rows, found.rejected) == (3, 1)
    assert sum(found.reasons.values()) == len(why.split("; "))
    assert "'" not in "".join(found.reasons)  # what cells hold is no business of logs


@pytest.mark.parametrize(
    "row",
    ["5,2026-11-24T12:14Z,,,", "5,2026-11-20,2026-11-20T23:59:59,,", "5,,0001-01-02,,", "0005,,,,", " 5 ,,,,"],
)
def test_a_row_at_the_edge_is_taken(tmp_path: Path, row: str) -> None:
    """Clocks differ by a quarter of an hour, and a day of receipt has no time."""
    assert _column(_read(_csv(tmp_path, "Client,received_at,withdrawn_at,scope,basis", row)), "client") == [5]


def test_a_row_without_a_time_of_receipt_is_rejected_where_none_is_said(tmp_path: Path) -> None:
    """The clock could not start."""
    path = _csv(tmp_path, "Client,received_at", "1,", "2,2026-11-20")
    found = _read(path, {"scope": "all", "basis": "objection"})
    assert _column(found, "client") == [2]
    assert [one.why for one in found.rejects] == ["received_at: no time"]


def test_a_list_without_a_good_row_is_refused(tmp_path: Path) -> None:
    """It is hardly the list that was meant; the reasons are named."""
    with pytest.raises(ExportError, match=r"not one row.*2 Client: not a whole number.*Nothing was taken in"):
        _read(_csv(tmp_path, "Client", "x", "y"))
    with pytest.raises(ExportError, match="no rows"):
        _read(_csv(tmp_path, "Client"))


def test_text_in_another_encoding_does_not_block_a_list(tmp_path: Path) -> None:
    """Neither in a reference nor in a row with too many fields: both are read."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"Client,request_ref\n1,\xcf\xe8\xf1\xfc\xec\xee\n2,\xe9,\xe9\n3,\n")
    found = _read(path)
    assert _column(found, "client") == [1, 3]
    assert _column(found, "request_ref")[0] == "Письмо"
    assert [(one.line, one.raw) for one in found.rejects] == [(3, "2,й,й")]


def test_rejects_are_counted_beyond_those_that_are_kept(tmp_path: Path) -> None:
    """A list of nothing but mistakes is to be mended, not shown."""
    found = _read(_csv(tmp_path, "Client", *["x"] * (lists.REJECTS_KEPT + 5), "1"))
    assert (found.rejected, len(found.rejects)) == (lists.REJECTS_KEPT + 5, lists.REJECTS_KEPT)


# files


def test_files_of_a_list_may_differ_in_columns_and_format(tmp_path: Path) -> None:
    """A folder of them is one list, called by its own name alone; rows that are alike are one."""
    folder = tmp_path / "opt-outs"
    folder.mkdir()
    _csv(folder, "Client,scope", "3,sms", "1,all", name="a.csv")
    _csv(folder, "1", "2", name="b.txt")
    pq.write_table(pa.table({"ClientId": [4, 3], "scope": ["push", None]}), folder / "c.parquet")
    found = _read(folder)
    assert list(zip(_column(found, "client"), _column(found, "channels"), strict=True)) == [
        (1, 85),
        (2, 85),
        (3, SMS),
        (3, 85),
        (4, PUSH),
    ]
    assert (found.rows, found.rejected, found.source) == (6, 0, "opt-outs")
    assert _column(_read(f"{folder}/*.csv"), "client") == [1, 3]


def test_parquet_columns_may_have_any_type(tmp_path: Path) -> None:
    """Timestamps with and without a zone, dates, dictionaries and nulls; a reject names its row."""
    at = datetime(2026, 11, 20, 10)
    table = pa.table(
        {
            "Client": pa.array([1, 2, None], pa.int64()),
            "received_at": pa.array([at, None, at], pa.timestamp("ms")),
            "withdrawn_at": pa.array([at.replace(tzinfo=UTC), None, None], pa.timestamp("us", "UTC")),
            "scope": pa.array(["sms", None, "sms"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = _read(tmp_path / "a.parquet")
    assert _column(found, "received_at") == [_time("2026-11-20T10:00+03:00"), NOW - HOUR]
    assert _column(found, "withdrawn_at") == [_time("2026-11-20T10:00+00:00"), NOW - HOUR]
    assert _column(found, "channels") == [SMS, 85]
    assert [(one.line, one.why) for one in found.rejects] == [(3, "Client: no id")]


OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2026, 11, 20), timezones=OFFSETS)


@hypothesis_settings(deadline=None, max_examples=25)
@given(st.lists(MOMENTS, min_size=1, max_size=8), st.sampled_from(["T", " "]))
def test_times_with_offsets_are_what_python_says(
    tmp_path_factory: pytest.TempPathFactory, moments: list[datetime], mark: str
) -> None:
    """A column of nothing else is read at once, one with a local time or a blank beside it row by row: alike."""
    rows = [f"{number},{moment.isoformat(mark)}" for number, moment in enumerate(moments, 1)]
    path = tmp_path_factory.getbasetemp()
    for more in ([], ["99,2026-11-20"], ["99,"]):
        found = _read(_csv(path, "Client,received_at", *rows, *more, name="offsets.csv"))
        assert _column(found, "received_at")[: len(rows)] == [moment.timestamp() for moment in moments]


def test_progress_reaches_the_whole(tmp_path: Path) -> None:
    """In bytes of all files."""
    _csv(tmp_path, "1", name="a.csv")
    _csv(tmp_path, "2", name="b.csv")
    seen: list[tuple[int, int]] = []
    _read(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 4), (4, 4)]


# the whole, against a plain reading

IDS = st.sampled_from(["1", "2", "3", "003", " 4 ", "2147483647", "1", "2", "x", "", "0", "12.5", "2147483648"])
TIMES = st.sampled_from(["", "", "2026-11-01", "2026-11-02T10:00", "2026-11-02 10:00:00+03:00", "2027-01-01", "soon"])
SCOPES = st.sampled_from(["", "all", "Marketing", "sms", "AllowPush;email", "fax", "all sms"])
GROUNDS = st.sampled_from(["", "objection", "Complaint", "erasure", "whim"])
REFS = st.sampled_from(["", "R-1", "R,2", 'R "3"', "R\n4", "Письмо"])
ROWS = st.lists(st.tuples(IDS, TIMES, TIMES, SCOPES, GROUNDS, REFS), max_size=12)
GOOD = ("1", "2026-11-01", "", "sms", "objection", "R-1")
NAMES = ("Client", "received_at", "withdrawn_at", "scope", "basis", "request_ref")
Row = tuple[str, str, str, str, str, str]


def _plain(row: Row) -> tuple[Any, ...] | None:
    """Return what a row says, read cell by cell; none where it is to be rejected."""
    zone = _settings().run.zone

    def moment(text: str, default: float) -> float:
        if not text:
            return default
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=zone)).timestamp()

    id_, received, withdrawn, scope, basis, ref = row
    try:
        client = int(id_)
        at = moment(received, SAID["received_at"])
        left = moment(withdrawn, at)
        channels = words.scope(scope or SAID["scope"])
        ground = words.BASES.index((basis or SAID["basis"]).lower())
    except ValueError:
        return None
    good = 1 <= client < 2**31 and at <= NOW + 900 and left <= at + DAY
    day = datetime.fromtimestamp(left, zone)
    if day.time() == time():  # a day alone is all of it
        left = datetime.combine(day, time(23, 59, 59), zone).timestamp()
    return (client, 0, channels, at, left, ground, ref or "letter") if good else None


def _as_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = python_csv.writer(file)
        writer.writerow(NAMES)
        writer.writerows(rows)
    return path


def _as_parquet(path: Path, rows: list[Row]) -> Path:
    columns = zip(*rows, strict=True)
    table = pa.table(
        {name: [cell or None for cell in column] for name, column in zip(NAMES, columns, strict=True)},
        pa.schema([(name, pa.string()) for name in NAMES]),
    )
    pq.write_table(table, path)
    return path


def _as_excel(path: Path, rows: list[Row]) -> Path:
    return workbooks.write(path, {"List": workbooks.sheet(NAMES, *[[cell or None for cell in row] for row in rows])})


def _as_jsonl(path: Path, rows: list[Row]) -> Path:
    said = [json.dumps(dict(zip(NAMES, row, strict=True)), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(said), "utf-8")
    return path


WRITERS: list[Callable[[Path, list[Row]], Path]] = [_as_csv, _as_parquet, _as_excel, _as_jsonl]


@hypothesis_settings(deadline=None, max_examples=40)
@given(ROWS, st.integers(1, 120), st.integers(1, 5))
@example([GOOD, ("1", "2026-11-02 10:00:00+03:00", "soon", "", "", ""), GOOD], 1, 1)
def test_a_list_is_what_a_plain_reading_finds(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], size_bytes: int, batch_rows: int
) -> None:
    """In each format, in whatever blocks and order: good rows sorted, each once; the rest is counted; one digest."""
    # A list of rejects alone is refused, and a row without anything is none on a worksheet.
    rows = [*(row for row in rows if any(row)), GOOD]
    plain = [_plain(row) for row in rows]
    folder = tmp_path_factory.mktemp("lists")
    digests = set()
    with (
        mock.patch.object(csv_files, "_LIST_BYTES", size_bytes),
        mock.patch.object(parquet, "BATCH_ROWS", batch_rows),
    ):
        for write in WRITERS:
            for place, some in enumerate((rows, rows[::-1])):
                found = _read(write(folder / f"{place}", some), request_ref="letter")
                said = [tuple(row.values()) for row in found.table.to_pylist()]
                assert sorted(said) == sorted({one for one in plain if one is not None})
                assert _column(found, "client") == sorted(_column(found, "client"))
                assert (found.rows, found.rejected) == (len(rows), plain.count(None))
                digests.add(found.digest)
    assert len(digests) == 1


@pytest.mark.parametrize("place", range(6))
def test_another_content_has_another_digest(tmp_path: Path, place: int) -> None:
    """Each cell counts, and where one text ends and the next begins."""
    others = ("2", "2026-11-02", "2026-10-01", "push", "erasure", "R-2")
    changed: Any = tuple(others[place] if at == place else cell for at, cell in enumerate(GOOD))
    one, other = (_read(_as_csv(tmp_path / "a", [row])).digest for row in (GOOD, changed))
    assert one != other
    pairs: list[list[Any]] = [[(*GOOD[:5], first), (*GOOD[:5], "b")] for first in ("ab", "abb")]
    assert len({_read(_as_csv(tmp_path / "a", rows)).digest for rows in pairs}) == 2


def test_a_workbook_is_a_list_as_people_keep_it(tmp_path: Path) -> None:
    """Ids alone, or dates beside them, on one sheet of several; a line is Excel's."""
    ids = workbooks.write(tmp_path / "opt-out list.xlsx", {"L": workbooks.sheet((7,), (), (12345,), ("x",))})
    found = _read(ids)
    assert _column(found, "client") == [7, 12345]
    assert [(one.line, one.why) for one in found.rejects] == [(4, "Client: not a whole number 'x'")]
    dated = workbooks.sheet(("Client", "received_at"), (8, date(2026, 11, 20)))
    book = workbooks.write(tmp_path / "b.xlsx", {"Opt-outs": dated, "Notes": workbooks.sheet(("call Ann",))})
    with pytest.raises(ExportError, match="2 sheets with something in them"):
        _read(book)
    assert _column(_read(book, sheet="Opt-outs"), "received_at") == [_time("2026-11-20T00:00+03:00")]


def test_a_line_that_is_no_object_is_a_reject_of_the_list(tmp_path: Path) -> None:
    """With its line, reason and text; the others count."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"Client": 7}\n\n{"Client": 8\n{"Client": 1e3}\n{"Client": 9}\n')
    found = _read(path)
    assert _column(found, "client") == [7, 9]
    assert [(one.line, one.why.split(",")[0], one.raw) for one in found.rejects] == [
        (3, "not a JSON object", '{"Client": 8'),
        (4, "Client: scientific notation", "1e3"),
    ]


def test_thousands_are_those_of_the_configuration(tmp_path: Path) -> None:
    """Lists come from the same people as exports."""
    own = _settings()
    under = own.model_copy(update={"export": own.export.model_copy(update={"thousands": " "})})
    assert _column(_read(_csv(tmp_path, "Client", "1 234", "1\u00a0235"), under=under), "client") == [1234, 1235]


# evidence

EVIDENCE = "Client,channels,granted_at,method,evidence_ref"


def test_evidence_is_read(tmp_path: Path) -> None:
    """Who, which channels, when, how and where it is written down; each row once."""
    rows = ["7,marketing,2026-11-20,web form,E-2", '3,"sms,email",2026-11-20T10:00Z,desk,E-1']
    found = _evidence(_csv(tmp_path, EVIDENCE, *rows, rows[0]))
    assert found.table.to_pylist() == [
        {
            "client": 3,
            "channels": SMS | EMAIL,
            "granted_at": _time("2026-11-20T10:00+00:00"),
            "method": "desk",
            "evidence_ref": "E-1",
        },
        {
            "client": 7,
            "channels": SMS | EMAIL | PUSH,
            "granted_at": _time("2026-11-20T00:00+03:00"),
            "method": "web form",
            "evidence_ref": "E-2",
        },
    ]
    assert (found.rows, found.rejected) == (3, 0)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        *[
            (f"5,sms,2026-11-20,{method},E", f"method: no evidence of a consent '{method}'")
            for name in words.METHODS_REFUSED
            for method in (name, name.upper(), name.title())
        ],
        ("5,sms,2026-11-20, import ,E", "method: no evidence of a consent 'import'"),
        ("5,sms,2026-11-20,,E", "method: no evidence of a consent ''"),
        ("5,sms,2026-11-20,desk, ", "evidence_ref: no evidence is named"),
        ("5,sms,,desk,E", "granted_at: no time"),
        ("5,sms,soon,desk,E", "granted_at: no ISO 8601 time 'soon'"),
        ("5,sms,2026-11-24T12:00:01Z,desk,E", "granted_at: in the future"),
        ("5,,2026-11-20,desk,E", "channels: no known channels ''"),
        ("5,fax,2026-11-20,desk,E", "channels: no known channels 'fax'"),
        ("x,sms,2026-11-20,desk,E", "Client: not a whole number 'x'"),
    ],
)
def test_evidence_that_proves_nothing_is_rejected(tmp_path: Path, row: str, why: str) -> None:
    """With the reason; nothing is said for it from elsewhere."""
    found = _evidence(_csv(tmp_path, EVIDENCE, "1,all,2026-11-20,desk,E-1", row))
    assert _column(found, "client") == [1]
    assert [(one.line, one.why) for one in found.rejects] == [(3, why)]


def test_evidence_has_all_columns(tmp_path: Path) -> None:
    """Without one of them, nothing is demonstrated; they may be mapped."""
    with pytest.raises(ExportError, match="no column 'method', 'evidence_ref'; evidence has them all"):
        _evidence(_csv(tmp_path, "Client,channels,granted_at", "1,all,2026-11-20"))
    path = _csv(tmp_path, "ClientId,channels,granted_at,how,where", "1,all,2026-11-20,desk,E-1")
    assert _column(_evidence(path, columns={"method": "how", "evidence_ref": "where"}), "method") == ["desk"]
