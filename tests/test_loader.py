import csv
import gzip
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.config import ExportSettings
from sync_job.consent.channels import ALLOWED, BLANK, DENIED, FIELDS, LAST_ID, letters, pack
from sync_job.errors import ConfigError, ExportError
from sync_job.exports import csv as csv_files
from sync_job.exports import loader, parquet
from sync_job.exports.blocks import REJECT_COLUMNS, Rejects

HEADER = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque"
TIMED = {"consent_changed_at": "at"}
UTC_ZONE = ZoneInfo("UTC")


@dataclass
class Read:
    """An export and the rejects that the sink was given, in the order in which they came."""

    export: loader.Export
    tables: list[pa.Table]
    says: dict[int, str] = field(init=False)
    rejects: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        ids, values = self.export.statements.items()
        self.says = {int(id_): letters(int(byte)) for id_, byte in zip(ids, values, strict=True)}
        self.rejects = [row for table in self.tables for row in table.to_pylist()]


def _settings(**keys: object) -> ExportSettings:
    return ExportSettings.model_validate({"as_of": "none"} | keys)


def _load(where: Path | str, *, zone: ZoneInfo = UTC_ZONE, first_look: bool = False, **keys: object) -> Read:
    tables: list[pa.Table] = []

    def sink(rejects: Rejects) -> None:
        tables.append(rejects.table)

    export = loader.load(_settings(**keys), zone, where=str(where), first_look=first_look, sink=sink)
    good = export.clients - export.in_rejects_only
    assert good + export.duplicates + export.rejects == export.rows == sum(one.rows for one in export.inputs)
    assert sum(table.num_rows for table in tables) == export.rejects
    return Read(export, tables)


def _csv(tmp_path: Path, *rows: str, header: str = HEADER, name: str = "a.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def _as_parquet(path: Path, rows: list[dict[str, str]]) -> Path:
    names = list(rows[0])
    pq.write_table(pa.table({name: pa.array([row[name] or None for row in rows], pa.string()) for name in names}), path)
    return path


def _as_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


WRITERS = [_as_csv, _as_parquet]
Write = Callable[[Path, list[dict[str, str]]], Path]


# what several rows of one client mean


def _rows(*rows: tuple[str, str, str]) -> list[dict[str, str]]:
    """Return rows of a client, all four flags alike, and a time."""
    return [{"Client": id_, **dict.fromkeys(FIELDS, flag), "at": at} for id_, flag, at in rows]


def _both_orders(tmp_path: Path, write: Write, rows: list[dict[str, str]], **keys: Any) -> Read:
    """Return what *rows* state, which is the same from the last to the first."""
    there = _load(write(tmp_path / "there", rows), **keys)
    back = _load(write(tmp_path / "back", rows[::-1]), **keys)
    assert there.says == back.says
    assert there.export.conflicting.tolist() == back.export.conflicting.tolist()
    assert there.export.duplicates == back.export.duplicates
    return there


@pytest.mark.parametrize("write", WRITERS)
def test_identical_rows_of_a_client_are_one(tmp_path: Path, write: Write) -> None:
    """Counted as duplicates, and no conflict."""
    read = _both_orders(tmp_path, write, _rows(("1", "yes", ""), ("2", "no", ""), ("1", "1", ""), ("1", "Да", "")))
    assert read.says == {1: "TTTT", 2: "FFFF"}
    assert (read.export.rows, read.export.clients, read.export.duplicates) == (4, 2, 2)
    assert read.export.conflicting.tolist() == []


@pytest.mark.parametrize("write", WRITERS)
def test_denied_wins_where_rows_disagree(tmp_path: Path, write: Write) -> None:
    """Without times, whatever the order; an empty cell disagrees with nobody."""
    read = _both_orders(tmp_path, write, _rows(("1", "1", ""), ("1", "0", ""), ("2", "1", ""), ("2", "", "")))
    assert read.says == {1: "FFFF", 2: "TTTT"}
    assert read.export.conflicting.tolist() == [1]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (("1", "2024-01-02"), ("0", "2024-01-01"), "TTTT"),
        (("1", "2024-01-01"), ("0", "2024-01-02"), "FFFF"),
        (("1", "2024-01-01"), ("0", "2024-01-01"), "FFFF"),
        (("1", "2024-01-02"), ("0", ""), "FFFF"),
        (("1", ""), ("0", "2024-01-01"), "FFFF"),
        (("1", "2024-01-01T10:00:00.000001"), ("0", "2024-01-01T10:00:00"), "TTTT"),
        (("1", "2024-01-01T12:00+03:00"), ("0", "2024-01-01T10:00Z"), "FFFF"),
        (("1", "2024-01-01T14:00+03:00"), ("0", "2024-01-01T10:00Z"), "TTTT"),
        (("1", "2024-01-01T12:00"), ("0", "2024-01-01T10:00Z"), "FFFF"),
        (("1", "2024-01-01T14:00"), ("0", "2024-01-01T10:00Z"), "TTTT"),
        (("", "2024-01-02"), ("1", "2024-01-01"), "TTTT"),
    ],
)
def test_the_newest_consent_wins(
    tmp_path: Path, write: Write, first: tuple[str, str], second: tuple[str, str], says: str
) -> None:
    """Denied at a tie, and where a row that states the channel has no time; local times are Moscow's here."""
    rows = _rows(("1", *first), ("1", *second))
    read = _both_orders(tmp_path, write, rows, zone=ZoneInfo("Europe/Moscow"), columns=TIMED)
    assert read.says == {1: says}


@pytest.mark.parametrize("write", WRITERS)
def test_the_newest_wins_over_a_change_of_the_clocks(tmp_path: Path, write: Write) -> None:
    """An ambiguous 02:30 is the later one, so it is newer than 02:30 in summer time, and no newer than in winter."""
    summer = _rows(("1", "1", "2024-10-27T02:30"), ("1", "0", "2024-10-27T02:30+02:00"))
    winter = _rows(("2", "1", "2024-10-27T02:30"), ("2", "0", "2024-10-27T02:30+01:00"))
    read = _both_orders(tmp_path, write, summer + winter, zone=ZoneInfo("Europe/Berlin"), columns=TIMED)
    assert read.says == {1: "TTTT", 2: "FFFF"}


def test_a_time_that_cannot_be_read_rejects_the_row(tmp_path: Path) -> None:
    """Its denials count, and since they have no time they win."""
    rows = _rows(("1", "0", "yesterday"), ("1", "1", "2024-01-01"), ("2", "1", "01.02.2024"))
    read = _load(_as_csv(tmp_path / "a.csv", rows), columns=TIMED)
    assert read.says == {1: "FFFF", 2: "----"}
    assert read.export.reasons == {"at: no ISO 8601 time": 2}
    assert read.export.ungranted.tolist() == [1, 2]


def test_rows_of_a_client_may_lie_far_apart(tmp_path: Path) -> None:
    """In other blocks, and in other files."""
    many = [f"{i},1,1,1,1" for i in range(10, 200)]
    _csv(tmp_path, "5,1,1,,1", *many, "5,0,1,,1", name="a.csv")
    _csv(tmp_path, *many, "5,,0,1,1", name="b.csv")
    with mock.patch.object(csv_files, "BLOCK_BYTES", 64):
        read = _load(tmp_path)
    assert read.says[5] == "FFTT"
    assert read.export.conflicting.tolist() == [5]
    assert (read.export.clients, read.export.duplicates) == (191, 192)


def test_ids_may_lie_over_the_whole_range(tmp_path: Path) -> None:
    """Too far apart for a table by id."""
    rows = ("1,1,1,1,1", f"{LAST_ID},0,0,0,0", "70000000,1,1,1,1", "1,0,1,1,1", f"{LAST_ID},x,,,", "400000000,q,0,1,1")
    read = _load(_csv(tmp_path, *rows))
    assert read.says == {1: "FTTT", 70_000_000: "TTTT", 400_000_000: "-F--", LAST_ID: "FFFF"}
    assert read.export.in_rejects_only == 1
    assert read.export.ungranted.tolist() == [400_000_000, LAST_ID]


# rejects


def test_a_rejected_row_denies_and_does_not_grant(tmp_path: Path) -> None:
    """Its client gets no grant from other rows either, and is listed for that."""
    read = _load(_csv(tmp_path, "5,1,1,1,1", "5,0,1,maybe,1", "6,0,1,x,1", "abc,0,0,0,0"))
    assert read.says == {5: "FTTT", 6: "F---"}
    assert read.export.ungranted.tolist() == [5, 6]
    assert (read.export.rows, read.export.rejects, read.export.in_rejects_only) == (4, 3, 1)


def test_a_short_row_takes_the_grants_of_its_client(tmp_path: Path) -> None:
    """Which cells it lacks is unknown, so none of them counts."""
    read = _load(_csv(tmp_path, "5,1,1,1,1", "5,0", "6,0,0,0,0,0"))
    assert read.says == {5: "TTTT", 6: "----"}
    assert read.export.ungranted.tolist() == [5, 6]


def test_the_sink_gets_rejects_in_the_order_of_the_files(tmp_path: Path) -> None:
    """Own columns first, then the file, line, reasons and text; CSV and Parquet alike."""
    _csv(tmp_path, *[f"x{i},1,1,1,1" if i % 5 else "7,1" for i in range(60)], name="a.csv")
    _as_parquet(tmp_path / "b.parquet", _rows(("1", "1", ""), ("x60", "1", "")))
    _csv(tmp_path, "y,1,1,1,1", header=f"{HEADER},more", name="c.csv")
    with mock.patch.object(csv_files, "BLOCK_BYTES", 100):
        read = _load(tmp_path)
    order = [(Path(row["reject_file"]).name, row["reject_line"]) for row in read.rejects]
    assert order == [("a.csv", i) for i in range(2, 62)] + [("b.parquet", 2), ("c.csv", 2)]
    assert read.tables[0].column_names == [*HEADER.split(","), *REJECT_COLUMNS]
    assert read.rejects[-1] == dict.fromkeys(HEADER.split(",")) | {"more": None} | read.rejects[-1]
    assert [row["reject_raw"] for row in read.rejects[:2]] == ["7,1", "x1,1,1,1,1"]


def test_the_line_of_a_reject_is_that_of_the_file(tmp_path: Path) -> None:
    """Over many blocks with blank lines, lines of blanks and quoted newlines in good rows."""
    rows = [f'{i},"1\r\n",1,1,1\n\n  \nx,1,1,1,1' for i in range(1, 40)]
    with mock.patch.object(csv_files, "BLOCK_BYTES", 50):
        read = _load(_csv(tmp_path, *rows))
    lines = (tmp_path / "a.csv").read_bytes().decode().split("\n")
    assert [row["reject_line"] for row in read.rejects] == [i for i, line in enumerate(lines, 1) if line[:1] == "x"]
    assert len(read.rejects) == 39


def _fed_in_again(read: Read, path: Path, repair: Callable[[dict[str, Any]], None]) -> Path:
    """Write the rejects as a CSV file, each row repaired."""
    rows = read.rejects
    for row in rows:
        repair(row)
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows, read.tables[0].schema), path)
    return path


def test_repaired_rejects_can_be_fed_in_again(tmp_path: Path) -> None:
    """The file with own columns and reject columns is an export itself."""
    first = _load(_csv(tmp_path, "1,1,1,1,1", '2,"a\nb",0,1,1', "abc,0,0,0,0", "4,0"))

    def repair(row: dict[str, Any]) -> None:
        row.update(Client=row["Client"].replace("abc", "3") if row["Client"] else "4")
        row.update({name: "да" for name in FIELDS if row[name] not in ("0", "1")})

    second = _load(_fed_in_again(first, tmp_path / "b.csv", repair), kind="delta")
    assert second.says == {2: "TFTT", 3: "FFFF", 4: "TTTT"}
    assert second.export.rejects == 0


def test_rejects_that_nobody_repaired_are_rejects_again(tmp_path: Path) -> None:
    """None becomes a statement by the detour, and each says anew where it stands and why."""
    rows = ("2,q,0,1,1", "abc,1,1,1,1", "4,1", "5,1,1,1,1,1", "6,1,Ivanov, Ivan,1,1")
    first = _load(_csv(tmp_path, *rows))
    second = _load(_fed_in_again(first, tmp_path / "b.csv", lambda row: None), kind="delta")
    assert second.export.rejects == first.export.rejects == 5
    assert second.says == {2: "-F--"}
    assert second.tables[0].column_names == first.tables[0].column_names
    assert [row["reject_line"] for row in second.rejects] == [2, 3, 4, 5, 6]
    assert {row["reject_file"] for row in second.rejects} == {str(tmp_path / "b.csv")}


def test_reasons_are_counted_and_hold_nothing_of_the_rows(tmp_path: Path) -> None:
    """Counts go into reports that others may read; what a cell holds stays with the rejects."""
    rows = ("1,a; b@c.d,1,1,1", '2,"x \'; y",1,1,1', "Anna,1,q,1,1", "3,1", "4,1")
    counts = _load(_csv(tmp_path, *rows)).export.counts()
    assert counts["reasons"] == {
        "AllowSms: unknown token": 2,
        "2 fields instead of 5": 2,
        "Client: not a whole number": 1,
        "AllowEmail: unknown token": 1,
    }


def test_tokens_are_counted_per_channel_in_all_rows_with_cells(tmp_path: Path) -> None:
    """Raw, also in rejected rows; a row of the wrong length has no cells."""
    read = _load(_csv(tmp_path, "1,1,ДА,,0", "x, 1,да,,0", "2,1", "3,zz,да,,0"))
    assert read.export.tokens == {
        "AllowSms": {"1": 1, " 1": 1, "zz": 1},
        "AllowEmail": {"ДА": 1, "да": 2},
        "AllowPush": {"": 3},
        "AllowEmailOnlineCheque": {"0": 3},
    }
    assert read.export.counts()["tokens"]["AllowEmail"] == {"да": 2, "ДА": 1}


# files and columns


def test_files_may_order_their_columns_differently(tmp_path: Path) -> None:
    """And may be of both formats; each input is listed with its size, digest and rows."""
    _csv(tmp_path, "1,1,1,0,0", "2,1,1,0,0", name="a.csv")
    _csv(tmp_path, "0,x,1,3,0,1", header="AllowPush,n,AllowSms,Client,AllowEmailOnlineCheque,AllowEmail", name="b.csv")
    _as_parquet(tmp_path / "c.parquet", _rows(("4", "1", "")))
    read = _load(tmp_path, first_look=True)
    assert read.says == {1: "TTFF", 2: "TTFF", 3: "TTFF", 4: "TTTT"}
    assert [(Path(one.path).name, one.format, one.rows) for one in read.export.inputs] == [
        ("a.csv", "csv", 2),
        ("b.csv", "csv", 1),
        ("c.parquet", "parquet", 1),
    ]
    for one in read.export.inputs:
        content = Path(one.path).read_bytes()
        assert (one.size_bytes, one.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_columns_are_mapped_by_configuration(tmp_path: Path) -> None:
    """Messages speak the export's names, and counts the channels'."""
    columns = {"Client": "id", "AllowSms": "СМС", "AllowEmail": "mail", "AllowPush": "", "AllowEmailOnlineCheque": ""}
    read = _load(_csv(tmp_path, "5,да,q", header="id,СМС,mail"), columns=columns, first_look=True)
    assert read.rejects[0]["reject_reasons"] == "mail: unknown token 'q'"
    assert set(read.export.tokens) == {"AllowSms", "AllowEmail"}
    assert read.export.missing == ()


def test_a_missing_column_ends_a_first_look(tmp_path: Path) -> None:
    """The message has what is missing, what is there, the nearest name and the section to change."""
    path = _csv(tmp_path, "1,1,1,1,1", header=HEADER.replace("AllowSms", "AlowSms"))
    words = r"a\.csv: no column 'AllowSms'; the header has 'Client', 'AlowSms'.*'AlowSms'\?.*\[export\.columns\]"
    with pytest.raises(ExportError, match=words):
        _load(path, first_look=True)


def test_a_column_that_goes_missing_later_states_nothing(tmp_path: Path) -> None:
    """It is reported, and the other channels count; also where only one of two files lacks it."""
    _csv(tmp_path, "1,1,1,1,1", name="a.csv")
    _csv(tmp_path, "2,0,1,1", header="Client,AllowSms,AllowEmail,AllowPush", name="b.csv")
    _as_parquet(tmp_path / "c.parquet", [{"Client": "3", "AllowSms": "1", "AllowPush": "0"}])
    read = _load(tmp_path)
    assert read.says == {1: "TTTT", 2: "FTT-", 3: "T-F-"}
    assert read.export.missing == ("AllowEmail", "AllowEmailOnlineCheque")
    assert read.export.counts()["missing_columns"] == ["AllowEmail", "AllowEmailOnlineCheque"]


def test_a_missing_column_of_times_makes_denied_win(tmp_path: Path) -> None:
    """Rows without times have none, also beside a file that has them."""
    _csv(tmp_path, "1,1,1,1,1,2024-01-02", "2,1,1,1,1,2024-01-02", "2,0,0,0,0,2024-01-01", header=f"{HEADER},at")
    _csv(tmp_path, "1,0,0,0,0", name="b.csv")
    read = _load(tmp_path, columns=TIMED)
    assert read.says == {1: "FFFF", 2: "TTTT"}
    assert read.export.missing == ("at",)


@pytest.mark.parametrize("header", ["id,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque", "Client,a,b,c,d"])
def test_without_clients_or_any_channel_nothing_is_read(tmp_path: Path, header: str) -> None:
    """On a later night too: such a file is another file."""
    with pytest.raises(ExportError, match="no column"):
        _load(_csv(tmp_path, "1,1,1,1,1", header=header))


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_file_with_another_delimiter_than_the_one_asked_for_is_told(tmp_path: Path, mark: str) -> None:
    """The message says where to mend it."""
    with pytest.raises(ExportError, match=r"The header is one field: say in \[export\] delimiter"):
        _load(_csv(tmp_path, "1;1;1;1;1", header=HEADER.replace(",", mark)), delimiter=",")


def test_a_mapped_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """Nobody can tell which is meant, in CSV or Parquet."""
    with pytest.raises(ExportError, match="'AllowSms' twice"):
        _load(_csv(tmp_path, "1,1,1,1,1,1", header=f"{HEADER},AllowSms"))
    table = pa.Table.from_arrays([pa.array([1])] * 6, names=[*HEADER.split(","), "Client"])
    pq.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(ExportError, match="'Client' twice"):
        _load(tmp_path / "b.parquet")


def test_an_endless_header_is_not_shown_whole(tmp_path: Path) -> None:
    """A file that is no table may be one long line; the message stays one that can be read."""
    path = tmp_path / "a.csv"
    path.write_text("[id: 1], " * 20_000)
    with pytest.raises(ExportError, match="no column") as told:
        _load(path)
    assert len(str(told.value)) < 2000


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_export_without_rows_is_refused(tmp_path: Path, write: Write) -> None:
    """It would mean that every client is gone; that nobody changed is what a delta may well say."""
    empty = write(tmp_path / "a", _rows(("1", "1", "")))
    if write is _as_csv:
        empty.write_text(HEADER)
    else:
        pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    with pytest.raises(ExportError, match="a header and no rows"):
        _load(empty, kind="full")
    read = _load(empty, kind="delta")
    assert (read.says, read.export.rows, read.export.ungranted.tolist()) == ({}, 0, [])


def test_an_export_of_rejects_alone_is_read(tmp_path: Path) -> None:
    """Its rows are counted, and others judge their share."""
    read = _load(_csv(tmp_path, "x,1,1,1,1", "1,1"))
    assert (read.says, read.export.rows, read.export.rejects) == ({1: "----"}, 2, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\n\r\n", "only blank lines"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"Client\0", "neither text nor Parquet"),
        (b"PAR1", "damaged or cut short"),
        (f'{HEADER}\n1,1,1,1,1\n2,"1,1'.encode(), ":3: a quote opens"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    """An error of the export with its path, whatever is the matter."""
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=f"^{re.escape(str(path))}.*{words}"):
        _load(path)


def test_the_format_setting_is_held_to(tmp_path: Path) -> None:
    """A Parquet file where CSV was said, and the other way round."""
    with pytest.raises(ExportError, match="not CSV"):
        _load(_as_parquet(tmp_path / "a.csv", _rows(("1", "1", ""))), format="csv")
    with pytest.raises(ExportError, match="not a Parquet file"):
        _load(_csv(tmp_path, "1,1,1,1,1"), format="parquet")


def test_names_are_those_of_the_first_file(tmp_path: Path) -> None:
    """CSV or Parquet."""
    _csv(tmp_path, "1,1,1,1,1", name="b.csv")
    assert loader.names(str(tmp_path), _settings()) == HEADER.split(",")
    _as_parquet(tmp_path / "a.parquet", _rows(("1", "1", "")))
    assert loader.names(str(tmp_path), _settings()) == [*HEADER.split(","), "at"]


# while reading


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"9,1,1,1,1\n")


def _rename_over(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("change", [_append, _rename_over, lambda path: os.truncate(path, 40), Path.unlink])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, write: Write, change: Callable[[Path], None]
) -> None:
    """Whoever wrote to it had not finished; never a traceback, whatever is left to read."""
    path = write(tmp_path / "a", _rows(*[(str(i), "1", "") for i in range(1, 400)]))
    changed: list[int] = []

    def progress(done: int, total: int) -> None:
        if not changed:
            changed.append(done)
            change(path)

    with (
        mock.patch.object(csv_files, "BLOCK_BYTES", 300),
        mock.patch.object(parquet, "BATCH_ROWS", 50),
        pytest.raises(ExportError, match=re.escape(str(path))),
    ):
        loader.load(_settings(), UTC_ZONE, where=str(path), first_look=False, progress=progress)
    assert changed


def test_a_change_by_whoever_takes_the_rejects_is_seen(tmp_path: Path) -> None:
    """A row added at the very end of the reading."""
    path = _csv(tmp_path, "1,1,1,1,1", "x,1,1,1,1")
    with pytest.raises(ExportError, match="changed while it was read"):
        loader.load(_settings(), UTC_ZONE, where=str(path), first_look=False, sink=lambda _: _append(path))


def test_an_error_of_whoever_takes_the_rejects_is_theirs(tmp_path: Path) -> None:
    """A full disk under the rejects is no fault of the export."""

    def sink(_: Rejects) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        loader.load(_settings(), UTC_ZONE, where=str(_csv(tmp_path, "x,1,1,1,1")), first_look=False, sink=sink)


def test_progress_rises_to_the_whole(tmp_path: Path) -> None:
    """Bytes of all files, of both formats."""
    _csv(tmp_path, *[f"{i},1,1,1,1" for i in range(1, 300)], name="a.csv")
    _as_parquet(tmp_path / "b.parquet", _rows(*[(str(i), "1", "") for i in range(1, 300)]))
    seen: list[tuple[int, int]] = []
    with mock.patch.object(csv_files, "BLOCK_BYTES", 300), mock.patch.object(parquet, "BATCH_ROWS", 50):
        loader.load(
            _settings(),
            UTC_ZONE,
            where=str(tmp_path),
            first_look=False,
            progress=lambda done, total: seen.append((done, total)),
        )
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert {whole for _, whole in seen} == {total}
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == total


# how old an export is

MOSCOW = ZoneInfo("Europe/Moscow")


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _aged(where: Path, how: str, *, first_look: bool = False, **more: Any) -> loader.Export:
    """Return an export whose age is known by *how*, in Moscow."""
    return loader.load(_settings(as_of=how), MOSCOW, where=str(where), first_look=first_look, **more)


def test_nothing_may_say_how_old_an_export_is(tmp_path: Path) -> None:
    """Then it has no age, and says so."""
    export = _aged(_csv(tmp_path, "1,1,1,1,1"), "none")
    assert export.as_of is None
    assert export.counts()["as_of"] is None


def test_the_oldest_file_gives_the_age(tmp_path: Path) -> None:
    """By its time and by its name alike: what is missing in it was not known later."""
    for name, at in (
        ("crm_20261123_0730.csv", 2e9),
        ("crm_20261122_0730.csv", 1.9e9),
        ("crm_20261124_0730.csv", 1.8e9),
    ):
        os.utime(_csv(tmp_path, "1,1,1,1,1", name=name), (at, at))
    assert _aged(tmp_path, "mtime").as_of == 1.8e9
    export = _aged(tmp_path, "filename:%Y%m%d_%H%M")
    assert export.as_of == export.counts()["as_of"] == _at("2026-11-22T07:30+03:00")
    assert _aged(tmp_path, "filename:crm_%Y%m%d").as_of == _at("2026-11-22T00:00+03:00")


def test_digits_that_are_no_date_are_passed_over(tmp_path: Path) -> None:
    """A batch's number, say; folders do not count."""
    folder = tmp_path / "2020-01-01"
    folder.mkdir()
    path = _csv(folder, "1,1,1,1,1", name="batch-99999999-20261123.csv")
    assert _aged(path, "filename:%Y%m%d").as_of == _at("2026-11-23T00:00+03:00")
    with pytest.raises(ExportError, match=re.escape(f"{path}: no time like '%Y-%m-%d' in its name")):
        _aged(path, "filename:%Y-%m-%d")


@pytest.mark.parametrize("write", WRITERS)
def test_the_newest_time_in_a_column_gives_the_age(tmp_path: Path, write: Write) -> None:
    """Of all rows of all files, rejected ones too; what cannot be read says nothing."""
    rows = _rows(("1", "1", "2026-11-20"), ("2", "1", ""), ("x", "1", "2026-11-22T10:00"), ("3", "1", "soon"))
    write(tmp_path / "a.csv", rows)
    write(tmp_path / "b.csv", _rows(("4", "0", "2026-11-22 06:59:59+00:00")))
    export = _aged(tmp_path, "column:at")
    assert export.newest == _at("2026-11-22T10:00+03:00")
    assert export.as_of == _at("2026-11-22T09:59:59+03:00")  # of the oldest file
    assert (export.rejects, export.missing) == (1, ())
    write(tmp_path / "a.csv", _rows(("1", "1", ""), ("2", "1", "soon")))
    assert _aged(tmp_path / "a.csv", "column:at").as_of is None


def test_a_column_of_the_age_may_have_another_meaning_too(tmp_path: Path) -> None:
    """The time of a consent, for which a cell that cannot be read rejects its row."""
    path = _as_csv(tmp_path / "a.csv", _rows(("1", "1", "2026-11-20"), ("2", "1", "soon")))
    keys = _settings(as_of="column:at", columns=TIMED)
    export = loader.load(keys, UTC_ZONE, where=str(path), first_look=True)
    assert (export.as_of, export.rejects) == (_at("2026-11-20T00:00+00:00"), 1)


def test_an_age_from_a_column_that_is_missing(tmp_path: Path) -> None:
    """On a first look an error; later the column is missing and there is no age, whatever other files say."""
    _as_csv(tmp_path / "a.csv", _rows(("1", "1", "2026-11-20")))
    _csv(tmp_path, "2,1,1,1,1", name="b.csv")
    with pytest.raises(
        ExportError, match=r"b.csv: no column 'at', which \[export\] as_of names; the header has 'Client'"
    ):
        _aged(tmp_path, "column:at", first_look=True)
    export = _aged(tmp_path, "column:at")
    assert (export.as_of, export.missing, export.clients) == (None, ("at",), 2)


def test_an_age_from_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Nobody can tell which is meant."""
    path = _csv(tmp_path, "1,1,1,1,1,2026-11-20,2026-11-21", header=f"{HEADER},at,at")
    with pytest.raises(ExportError, match="'at' twice"):
        _aged(path, "column:at")


def test_an_age_may_be_told(tmp_path: Path) -> None:
    """Where the configuration leaves it to the caller; then it must be, and otherwise it must not."""
    path = _csv(tmp_path, "1,1,1,1,1")
    assert _aged(path, "flag", as_of=1.7e9).as_of == 1.7e9
    with pytest.raises(ConfigError, match="say when the export was made, with --as-of"):
        _aged(path, "flag")
    with pytest.raises(ConfigError, match="'mtime'"):
        _aged(path, "mtime", as_of=1.7e9)


@pytest.mark.parametrize("how", ["mtime", "flag", "filename:%Y-%m-%d_%H-%M", "column:at"])
def test_an_export_from_the_future_is_refused(tmp_path: Path, how: str) -> None:
    """It would outdo every later one; clocks may differ by a quarter of an hour."""
    path = _as_csv(tmp_path / "2026-11-24_12-00.csv", _rows(("1", "1", "2026-11-24T12:00")))
    made = _at("2026-11-24T12:00+03:00")
    os.utime(path, (made, made))
    told: dict[str, Any] = {"as_of": made} if how == "flag" else {}
    assert _aged(path, how, now=made - 15 * 60, **told).as_of == made
    with pytest.raises(ExportError, match="as of 2026-11-24 09:00 UTC, which is in the future"):
        _aged(path, how, now=made - 15 * 60 - 1, **told)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    """Whatever files state it, in whatever order, words and compression; other statements have another."""
    first, second = _csv(tmp_path, "1,1,1,1,1", name="a.csv"), _csv(tmp_path, "2,1,1,1,1", name="b.csv")
    export = _load(tmp_path).export
    assert export.digest == export.counts()["digest"]
    first.rename(tmp_path / "c.csv")
    assert _load(tmp_path).export.digest == export.digest
    (tmp_path / "c.csv").unlink()
    _csv(tmp_path, "2,yes,true,1,1", "1,1,1,1,1", "1,1,1,1,1", name="b.csv")
    assert _load(tmp_path).export.digest == export.digest
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(second.read_bytes()))
    second.unlink()
    assert _load(tmp_path).export.digest == export.digest
    _csv(tmp_path, "2,1,1,1,0", name="d.csv")
    assert _load(tmp_path).export.digest != export.digest


# what a blank says

BLANKS = [f"{i},,1,1,0" for i in range(1, 22)]  # 21 rows, one more than a column may leave blank without a no


@pytest.mark.parametrize("write", WRITERS)
def test_a_column_of_blanks_that_never_says_no_is_refused(tmp_path: Path, write: Write) -> None:
    """A ticked box is 1, and an unticked one nothing: the error names the column, its numbers and the cure."""
    rows = [dict(zip(HEADER.split(","), row.split(","), strict=True)) for row in BLANKS]
    with pytest.raises(ExportError) as told:
        _load(write(tmp_path / "a", rows))
    assert "column 'AllowSms' is blank in 21 of 21 rows and never says no" in str(told.value)
    assert '[export.blank] AllowSms = "denied"' in str(told.value)


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        (BLANKS, True),
        (BLANKS[1:], False),
        ([*BLANKS, "30,0,1,1,0"], False),
        ([*BLANKS, "30, Нет,1,1,0"], False),
        ([*BLANKS, "30,1,1,1,0"], True),
        ([row.replace(",,", ",  ,") for row in BLANKS], True),
        ([*BLANKS[1:], "x,,1,1,0"], True),
        ([*BLANKS, *[f"{i},1,1,1,0" for i in range(30, 30 + 2079)]], False),
        ([*BLANKS, *[f"{i},1,1,1,0" for i in range(30, 30 + 2078)]], True),
    ],
    ids=["21", "20", "a no", "a no in words", "a yes", "spaces", "rejects count", "1 % of 2100", "over 1 % of 2099"],
)
def test_a_column_may_leave_some_blank(tmp_path: Path, rows: list[str], refused: bool) -> None:
    """20 rows, or 1 % of them if that is more; and any number when it can say no at all."""
    path = _csv(tmp_path, *rows)
    if refused:
        with pytest.raises(ExportError, match="never says no"):
            _load(path)
    else:
        assert _load(path).says[2] == "-TTF"


def test_blanks_are_judged_over_the_whole_export(tmp_path: Path) -> None:
    """One file may be blank where another says no."""
    _csv(tmp_path, *BLANKS, name="a.csv")
    _csv(tmp_path, "30,0,1,1,0", name="b.csv")
    assert _load(tmp_path).says[1] == "-TTF"


@pytest.mark.parametrize("kind", ["delta", "part"])
def test_blanks_of_some_clients_are_not_judged(tmp_path: Path, kind: Any) -> None:
    """A part or a delta may be empty as well; the caller's word goes before the settings'."""
    read = _load(_csv(tmp_path, *BLANKS), kind="delta")
    assert read.says[1] == "-TTF"
    assert (
        loader.load(_settings(), UTC_ZONE, where=str(_csv(tmp_path, *BLANKS)), first_look=False, kind=kind).rows == 21
    )
    assert loader.load(_settings(), UTC_ZONE, where=str(_csv(tmp_path)), first_look=False, kind=kind).rows == 0


@pytest.mark.parametrize("write", WRITERS)
def test_a_blank_says_what_the_settings_say(tmp_path: Path, write: Write) -> None:
    """Of its own channel alone; a cell that cannot be read is no blank."""
    rows = [dict(zip(HEADER.split(","), row.split(","), strict=True)) for row in (*BLANKS, "40,??,,1,0", "41,1,,1,0")]
    read = _load(write(tmp_path / "a", rows), blank={"AllowSms": "denied"})
    assert (read.says[1], read.says[40], read.says[41]) == ("FTTF", "---F", "T-TF")
    read = _load(write(tmp_path / "a", rows), blank={"AllowSms": "nothing"})
    assert (read.says[1], read.says[40], read.says[41]) == ("-TTF", "---F", "T-TF")
    assert read.export.tokens["AllowSms"][""] == 21


def test_a_blank_of_a_rejected_row_denies_where_it_says_no(tmp_path: Path) -> None:
    """As a written no would; the grants of the row do not count."""
    read = _load(_csv(tmp_path, "1,,1,??,1"), blank={"AllowSms": "denied"})
    assert (read.says, read.export.ungranted.tolist()) == ({1: "F---"}, [1])


def test_a_missing_column_is_no_column_of_blanks(tmp_path: Path) -> None:
    """It states nothing, whatever a blank says."""
    path = _csv(tmp_path, *[f"{i},1,1,0" for i in range(1, 40)], header=HEADER.replace("AllowSms,", ""))
    read = _load(path, blank={"AllowSms": "denied"})
    assert (read.says[1], read.export.missing) == ("-TTF", ("AllowSms",))


# the rows of one client


@pytest.mark.parametrize("size_bytes", [1, 30, 10_000])
def test_the_rows_of_one_client_go_with_an_export(tmp_path: Path, size_bytes: int) -> None:
    """As they stand in the file, with their lines: good ones, rejected ones, and those of too few or many fields."""
    rows = ['8,"1",1,1,1', '7,"1",1,1,1', "", "7,??,1,1,1", "07,1,1", "x,1,1,1,1", '"7",1,1,1,1,"a\nb"', "7,0,0,0,0"]
    path = _csv(tmp_path, *rows)
    with mock.patch.object(csv_files, "BLOCK_BYTES", size_bytes):
        export = loader.load(_settings(), UTC_ZONE, where=str(path), first_look=False, wanted=7)
        assert loader.load(_settings(), UTC_ZONE, where=str(path), first_look=False).raw == []
    assert {row.file for row in export.raw} == {str(path)}
    assert [(row.line, row.text) for row in export.raw] == [
        (3, rows[1]),
        (5, rows[3]),
        (6, rows[4]),
        (8, rows[6]),
        (10, rows[7]),
    ]


def test_the_rows_of_one_client_come_from_all_files(tmp_path: Path) -> None:
    """A row of Parquet is its number and all of its cells."""
    _csv(tmp_path, "7,1,1,1,1", "8,1,1,1,1", name="a.csv")
    flags = dict.fromkeys(FIELDS, pa.array([True, None, False, True]))
    table = pa.table({"Name": ["a", "b", None, "d"], "Client": [8, 7, 9, 7]} | flags)
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=3)
    with mock.patch.object(parquet, "BATCH_ROWS", 2):
        export = loader.load(_settings(), UTC_ZONE, where=str(tmp_path), first_look=False, wanted=7)
    assert [(Path(row.file).name, row.line, row.text) for row in export.raw] == [
        ("a.csv", 2, "7,1,1,1,1"),
        ("b.parquet", 2, "b,7,,,,"),
        ("b.parquet", 4, "d,7,true,true,true,true"),
    ]


# against a plain reading


@dataclass
class Plain:
    """What a reading row by row and cell by cell finds."""

    says: dict[int, str]
    rejects: list[int]
    ungranted: set[int]
    conflicting: set[int]
    in_rejects_only: int
    tokens: dict[str, Counter[str]]


YES, NO = {"1", "yes", "да", "true"}, {"0", "no", "нет", "false"}
AT = ["", "", "2024-01-01", "2024-01-02", "2024-01-02T00:00:00+00:00", "2024-01-01T23:00-01:00", "soon"]


def _plain(rows: list[dict[str, str]]) -> Plain:
    said: dict[int, list[tuple[int, int, datetime | None]]] = {}
    found = Plain({}, [], set(), set(), 0, {name: Counter() for name in FIELDS})
    good: set[int] = set()
    for number, row in enumerate(rows, 1):
        id_ = int(row["Client"]) if row["Client"].isdigit() and 1 <= int(row["Client"]) <= LAST_ID else 0
        tokens = [row[name].strip().lower() for name in FIELDS]
        bad = not id_ or row["at"] == "soon" or bool(set(tokens) - YES - NO - {""})
        time = datetime.fromisoformat(row["at"]) if row["at"] not in ("", "soon") else None
        time = time if time is None or time.tzinfo else time.replace(tzinfo=UTC)
        for name in FIELDS:
            found.tokens[name][row[name]] += 1
        if bad:
            found.rejects.append(number)
        if id_:
            rest = said.setdefault(id_, [])
            rest += [(place, DENIED, time) for place, token in enumerate(tokens) if token in NO]
            rest += [(place, ALLOWED, time) for place, token in enumerate(tokens) if token in YES and not bad]
            (found.ungranted if bad else good).add(id_)
    for id_, statements in said.items():
        values = []
        for place in range(4):
            mine = [(value, time) for at, value, time in statements if at == place]
            if {value for value, _ in mine} == {ALLOWED, DENIED}:
                found.conflicting.add(id_)
            times = [time for _, time in mine if time is not None]
            if len(times) == len(mine) > 0:
                mine = [(value, time) for value, time in mine if time == max(times)]
            values.append(min((value for value, _ in mine), default=BLANK))
        found.says[id_] = letters(pack(values))
    found.in_rejects_only = len(set(said) - good)
    return found


FLAGS = st.sampled_from(["1", "0", "Да", "нет", "yes", "no", "", "1", "0", "TRUE", " False", "", "??"])
CLIENTS = st.sampled_from(["1", "2", "3", "4", "007", "2147483647", "1", "2", "", "12.5", "0", "abc"])
TABLES = st.lists(
    st.builds(
        lambda id_, flags, at: {"Client": id_, **dict(zip(FIELDS, flags, strict=True)), "at": at},
        CLIENTS,
        st.tuples(FLAGS, FLAGS, FLAGS, FLAGS),
        st.sampled_from(AT),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(TABLES, st.integers(1, 200), st.integers(1, 6), st.booleans())
def test_an_export_is_read_alike_from_csv_and_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], size_bytes: int, batch_rows: int, back: bool
) -> None:
    """Statements, rejects, conflicts and counts are those of a plain reading, in whatever blocks and order."""
    rows = rows[::-1] if back else rows
    expected = _plain(rows)
    folder = tmp_path_factory.getbasetemp()
    reads = []
    with (
        mock.patch.object(csv_files, "BLOCK_BYTES", size_bytes),
        mock.patch.object(parquet, "BATCH_ROWS", batch_rows),
    ):
        for write, lines_before in ((_as_csv, 1), (_as_parquet, 0)):
            read = _load(write(folder / write.__name__, rows), columns=TIMED)
            assert read.says == expected.says
            assert [row["reject_line"] - lines_before for row in read.rejects] == expected.rejects
            assert set(read.export.ungranted.tolist()) == expected.ungranted
            assert set(read.export.conflicting.tolist()) == expected.conflicting
            assert read.export.in_rejects_only == expected.in_rejects_only
            assert read.export.tokens == expected.tokens
            reads.append(read)
    ours, theirs = (
        {key: value for key, value in one.export.counts().items() if key not in ("inputs", "digest")} for one in reads
    )
    assert ours == theirs
    assert [row["reject_reasons"] for row in reads[0].rejects] == [row["reject_reasons"] for row in reads[1].rejects]
    assert _again(reads[0]) == _again(reads[1])


def _again(read: Read) -> str:
    """Return the own columns of the rejects, as text in which null and empty are one."""
    out = io.StringIO()
    csv.writer(out).writerows([row[name] or "" for name in HEADER.split(",")] for row in read.rejects)
    return out.getvalue()


# what the configuration says of cells


@pytest.mark.parametrize("write", WRITERS)
def test_a_column_may_say_the_opposite(tmp_path: Path, write: Write) -> None:
    """DoNotCall: a yes is the denial, tokens are counted raw, and blanks are judged by what the column denies."""
    rows = [{"Client": str(id_), **dict.fromkeys(FIELDS, "1"), "DoNotCall": "1"} for id_ in range(1, 60)]
    for row in rows[30:]:
        row["DoNotCall"] = ""
    rows[0]["DoNotCall"] = "0"
    keys: dict[str, Any] = {"columns": {"AllowSms": "DoNotCall"}, "inverted": ["AllowSms"]}
    read = _load(write(tmp_path / "a", rows), **keys)
    assert [read.says[id_] for id_ in (1, 2, 31)] == ["TTTT", "FTTT", "-TTT"]
    assert read.export.tokens["AllowSms"] == {"0": 1, "1": 29, "": 29}
    for row in rows:
        row["DoNotCall"] = row["DoNotCall"].replace("1", "0")
    with pytest.raises(ExportError, match="column 'DoNotCall' is blank in 29 of 59 rows and never says no"):
        _load(write(tmp_path / "a", rows), **keys)
    read = _load(write(tmp_path / "a", rows), blank={"AllowSms": "denied"}, **keys)
    assert [read.says[id_] for id_ in (1, 31)] == ["TTTT", "FTTT"]


@pytest.mark.parametrize("write", WRITERS)
def test_tokens_are_those_of_the_configuration(tmp_path: Path, write: Write) -> None:
    """Of all channels and of one; what says nothing is no blank, and the rule of blanks is about blanks."""
    rows = [{"Client": str(id_), **dict.fromkeys(FIELDS, "on")} for id_ in range(1, 40)]
    for row in rows[5:]:
        row["AllowPush"] = "unknown"
    rows[0]["AllowSms"] = "S"
    rows[1]["AllowEmail"] = "S"
    values = {"allowed": ["ON"], "nothing": ["unknown"], "AllowSms": {"denied": ["s"]}}
    read = _load(write(tmp_path / "a", rows), values=values)
    assert [read.says[id_] for id_ in (1, 2, 3, 39)] == ["FTTT", "----", "TTTT", "TT-T"]
    assert read.rejects[0]["reject_reasons"] == "AllowEmail: unknown token 'S'"


def test_ids_have_thousands_set_apart(tmp_path: Path) -> None:
    """Also in a row with too few fields, whose client gets no grant."""
    path = _csv(tmp_path, "1 234,1,1,1,1", "1234,1", "1\u00a0235,1,1,1,1", "12.0,1,1,1,1")
    read = _load(path, thousands=" ")
    assert read.says == {1234: "TTTT", 1235: "TTTT", 12: "TTTT"}
    assert read.export.ungranted.tolist() == [1234]


def test_files_of_several_types_are_one_export(tmp_path: Path) -> None:
    """As pandas writes a night with a gap and one without, and a partition that folders say."""
    for day, ids, flags in (
        ("2026-11-01", pa.array([1, 2], pa.int16()), pa.array([True, False])),
        ("2026-11-02", pa.array([3.0, None]), pa.array([1.0, float("nan")])),
        ("2026-11-03", pa.array(["4", "5"]).dictionary_encode(), pa.array([0, 1], pa.uint8())),
        ("2026-11-04", pa.array([b"6"]), pa.array(["да"], pa.large_string())),
    ):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(pa.table({"Client": ids, **dict.fromkeys(FIELDS, flags)}), tmp_path / f"day={day}" / "a.parquet")
    read = _load(tmp_path, columns={"consent_changed_at": "day"}, as_of="column:day")
    assert read.says == {1: "TTTT", 2: "FFFF", 3: "TTTT", 4: "FFFF", 5: "TTTT", 6: "TTTT"}
    assert read.export.reasons == {"Client: no id": 1}
    assert read.export.as_of == datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    assert read.export.newest == datetime(2026, 11, 4, tzinfo=UTC).timestamp()
    one = loader.load(_settings(where={"day": "2026-11-02"}), UTC_ZONE, where=str(tmp_path), first_look=True)
    assert one.statements.items()[0].tolist() == [3]
