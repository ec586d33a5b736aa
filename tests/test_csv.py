import csv as python_csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.config import ColumnSettings, RunSettings
from sync_job.consent.channels import ALL_BLANK, ALLOWED, BLANK, DENIED, FIELDS, LAST_ID, pack
from sync_job.errors import ExportError
from sync_job.exports import csv, csv_header, sources
from sync_job.exports.blocks import Block, Columns
from sync_job.exports.dialect import Asked

UNCUT = Asked(final_newline=False)  # a last line without a newline is whole
ZONE = RunSettings.model_validate({}).zone
HEADER = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque"
REJECTS = ["reject_file", "reject_line", "reject_reasons", "reject_raw"]
YES, NO = ("true", "1", "Yes", "Y", "t", "ДА", "д", "Истина", " 1 "), ("false", "0", "No", "n", "F", "Нет", "н", "ложь")
ALL_YES, ALL_NO = ({token.strip().lower() for token in tokens} for tokens in (YES, NO))
SCIENTIFIC = "Client: scientific notation, as Excel writes it: digits are lost"
EMPTY, UNKNOWN = ("", " "), ("maybe", "2", "-", "null", "é", 'a"b', "x; y", "1\n1")


@contextmanager
def _blocks_of(size_bytes: int) -> Iterator[None]:
    """Let files be read in small blocks, so that a small file has many."""
    with mock.patch.object(csv, "BLOCK_BYTES", size_bytes):
        yield


@dataclass
class Got:
    """All blocks of a file, together."""

    rows: int = 0
    good: list[tuple[int, int]] = field(default_factory=list)
    partial: list[tuple[int, int]] = field(default_factory=list)
    tokens: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in FIELDS})
    rejects: list[dict[str, str | int | None]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0


def _read(path: Path, columns: ColumnSettings | None = None, asked: Asked = UNCUT) -> tuple[Got, list[Block]]:
    source = sources.find(str(path), "csv")[0]
    columns = columns or ColumnSettings.model_validate({})
    named = [columns.Client, *columns.channels]
    head = csv_header.header(source, asked, named, [columns.Client])
    mapped = Columns.within(columns, head.names)
    hasher, got, line = hashlib.sha256(), Got(), head.lines
    found = list(csv.read(source, head, mapped, ZONE, hasher))
    assert hasher.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    for block in found:
        got.rows += block.rows
        got.size_bytes += block.size_bytes
        got.good += zip(block.ids.tolist(), block.values.tolist(), strict=True)
        got.partial += zip(block.partial_ids.tolist(), block.partial_values.tolist(), strict=True)
        got.reasons += block.reasons
        for name, counter in block.tokens.items():
            got.tokens[name] += counter
        if block.rejects is not None:
            assert block.rejects.table.column_names[-4:] == REJECTS
            got.rejects += block.rejects.after(line).table.to_pylist()
        line += block.lines
    assert not found or got.size_bytes == path.stat().st_size
    return got, found


def _of(tmp_path: Path, text: str | bytes) -> Got:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return _read(path)[0]


def _why(got: Got) -> list[tuple[object, object]]:
    return [(one["reject_line"], one["reject_reasons"]) for one in got.rejects]


def _says(*values: int) -> int:
    return pack(values)


def _plain(text: str) -> Got:
    """Return what the rows of *text* state, read with Python's own reader, cell by cell."""
    lines = list(io.StringIO(text, newline=""))
    reader = python_csv.reader(lines)
    got, header, before = Got(), [""], 0
    for row in reader:
        raw = "".join(lines[before : reader.line_num]).rstrip("\r\n")
        line, before = before + 1, reader.line_num
        if header == [""]:
            header = row or header
        elif raw.strip():
            _plain_row(got, dict(zip(header, row, strict=False)) if len(row) == len(header) else {}, row, line, raw)
    got.size_bytes = len(text.encode())
    return got


def _plain_row(got: Got, cells: dict[str, str], row: list[str], line: int, raw: str) -> None:
    got.rows += 1
    why, values, id_ = [], [], 0
    if cells:
        text = cells["Client"].strip()
        number = int(text) if re.fullmatch("-?[0-9]+", text) else None
        id_ = number if number is not None and 1 <= number <= LAST_ID else 0
        if not text:
            why.append(("Client: no id", ""))
        elif re.fullmatch("[0-9.]+e[0-9]+", text):
            why.append((SCIENTIFIC, cells["Client"]))
        elif number is None:
            why.append(("Client: not a whole number", cells["Client"]))
        elif not id_:
            why.append((f"Client: outside 1 to {LAST_ID}", cells["Client"]))
        for name in FIELDS:
            token = cells[name]
            got.tokens[name][token] += 1
            plain = token.strip().lower()
            value = ALLOWED if plain in ALL_YES else DENIED if plain in ALL_NO else BLANK
            if value == BLANK and plain:
                why.append((f"{name}: unknown token", token))
            values.append(value)
        if id_ and why:
            got.partial.append((id_, pack([DENIED if one == DENIED else BLANK for one in values])))
    else:
        why.append((f"{len(row)} fields instead of 6", ""))
        if re.fullmatch("[0-9]+", row[1].strip() if len(row) > 1 else "") and 1 <= int(row[1]) <= LAST_ID:
            got.partial.append((int(row[1]), ALL_BLANK))
    if not why:
        got.good.append((id_, pack(values)))
        return
    got.reasons.update(reason for reason, _ in why)
    said = "; ".join(f"{reason} '{cell}'" if cell else reason for reason, cell in why)
    own = dict.fromkeys(("Name", "Client", *FIELDS)) | cells
    got.rejects.append(own | {"reject_line": line, "reject_reasons": said, "reject_raw": raw})


TOKENS = st.sampled_from(YES + NO + YES + NO + EMPTY + UNKNOWN)
NAMES = st.sampled_from(["", "Я", 'a "b"', "c,d", "e\nf", "g\r\nh", '"', " ", "0x1F"])
IDS = st.one_of(
    st.integers(1, 30).map(str),
    st.sampled_from(["", "abc", "12.5", "1e5", "0x1F", "-5", "2147483648", "9" * 20, "000123", " 7 ", "2147483647"]),
)
ROWS = st.one_of(
    st.tuples(NAMES, IDS, TOKENS, TOKENS, TOKENS, TOKENS),
    st.tuples(NAMES, st.integers(1, 30).map(str), *[st.sampled_from(YES + NO)] * 4),
    # With nothing but empty fields beyond the header's, a file may be one that has delimiters at the end of its lines.
    st.lists(st.sampled_from(["", "5", "yes", "x,y", "z\nz"]), min_size=1, max_size=8)
    .filter(lambda row: len(row) <= 6 or any(row[6:]))
    .map(tuple),
)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(ROWS, max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([python_csv.QUOTE_ALL, python_csv.QUOTE_MINIMAL]),
    st.sampled_from(["", "\n", "  \n"]),
    st.booleans(),
    st.integers(1, 90),
)
def test_a_file_is_read_as_pythons_own_reader_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, ...]],
    newline: str,
    quoting: int,
    between: str,
    complete: bool,
    size_bytes: int,
) -> None:
    """Statements, tokens, and each reject with its line, text, cells and reasons; whatever the blocks are."""
    out = io.StringIO()
    writer = python_csv.writer(out, lineterminator=newline, quoting=quoting)  # type: ignore[arg-type]
    for row in [("Name", "Client", *FIELDS), *rows]:
        writer.writerow(row)
        out.write(between.replace("\n", newline))
    text = out.getvalue() if complete else out.getvalue().removesuffix(newline)
    path = tmp_path_factory.getbasetemp() / "read.csv"
    path.write_bytes(text.encode())
    with _blocks_of(size_bytes):
        got, _ = _read(path)
    expected = _plain(text)
    for one in got.rejects:
        assert one.pop("reject_file") == str(path)
    assert got.rejects == expected.rejects
    assert sorted(got.good) == sorted(expected.good)
    assert sorted(got.partial) == sorted(expected.partial)
    assert got == replace(expected, good=got.good, partial=got.partial, size_bytes=got.size_bytes)


def test_rows_keep_their_order_over_many_blocks(tmp_path: Path) -> None:
    """Blocks are parsed side by side and come in the order of the file."""
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\n" + "".join(f"{i},1,0,,да\n" for i in range(1, 3001)))
    with _blocks_of(1000):
        got, found = _read(path)
    assert len(found) > 30
    assert got.good == [(i, _says(ALLOWED, DENIED, BLANK, ALLOWED)) for i in range(1, 3001)]
    assert got.tokens["AllowEmailOnlineCheque"] == {"да": 3000}


@pytest.mark.parametrize("size_bytes", range(1, 40))
def test_a_block_that_ends_between_cr_and_lf_does_not_shift_the_lines(tmp_path: Path, size_bytes: int) -> None:
    """Wherever the blocks end, the reject stands in line 5."""
    with _blocks_of(size_bytes):
        got = _of(tmp_path, f'{HEADER}\r\n1,1,1,1,"1"\r\n\r\n2,1,1,1,"1"\r\nx,1,1,1,"1"\r\n')
    assert _why(got) == [(5, "Client: not a whole number 'x'")]


@pytest.mark.parametrize(
    ("id_", "why"),
    [
        ("", "no id"),
        ("  ", "no id"),
        ('""', "no id"),
        ("abc", "not a whole number 'abc'"),
        ("12.5", "not a whole number '12.5'"),
        ("1e5", "scientific notation, as Excel writes it: digits are lost '1e5'"),
        ("0x1F", "not a whole number '0x1F'"),
        ("-5", "outside 1 to 2147483647 '-5'"),
        ("0", "outside 1 to 2147483647 '0'"),
        ("2147483648", "outside 1 to 2147483647 '2147483648'"),
        ("9" * 20, f"outside 1 to 2147483647 '{'9' * 20}'"),
    ],
)
def test_a_bad_id_is_a_reject_and_its_neighbours_are_not(tmp_path: Path, id_: str, why: str) -> None:
    """Line, text, cells and reason of that row; the rows before and after count."""
    got = _of(tmp_path, f"{HEADER}\n7,1,1,1,1\n{id_},0,1,,1\n8,0,0,0,0\n")
    assert got.good == [(7, _says(*[ALLOWED] * 4)), (8, _says(*[DENIED] * 4))]
    assert got.partial == []
    own = dict(zip(HEADER.split(","), [id_.strip('"'), "0", "1", "", "1"], strict=True))
    place = {"reject_file": str(tmp_path / "a.csv"), "reject_line": 3, "reject_raw": f"{id_},0,1,,1"}
    assert got.rejects == [own | place | {"reject_reasons": f"Client: {why}"}]
    assert got.reasons == {f"Client: {why.split(chr(32) + chr(39))[0]}": 1}


@pytest.mark.parametrize("id_", ["000123", " 123 ", "\t123", '"123"', '" 123 "', "0" * 30 + "123"])
def test_blanks_and_zeros_around_an_id_do_not_matter(tmp_path: Path, id_: str) -> None:
    """All of these are client 123."""
    assert _of(tmp_path, f"{HEADER}\n{id_},1,1,1,1\n").good == [(123, _says(*[ALLOWED] * 4))]


def test_a_rejected_row_keeps_its_denials_and_loses_its_grants(tmp_path: Path) -> None:
    """The id is good, one cell is not: denied stays denied, all else states nothing."""
    got = _of(tmp_path, f"{HEADER}\n5,0,1,maybe,\n")
    assert got.good == []
    assert got.partial == [(5, _says(DENIED, BLANK, BLANK, BLANK))]
    assert _why(got) == [(2, "AllowPush: unknown token 'maybe'")]


def test_a_row_names_all_of_its_problems(tmp_path: Path) -> None:
    """Whoever mends it mends it once."""
    got = _of(tmp_path, f"{HEADER}\nx,p,1,q,0\n")
    reasons = "Client: not a whole number 'x'; AllowSms: unknown token 'p'; AllowPush: unknown token 'q'"
    assert _why(got) == [(2, reasons)]
    assert got.reasons.total() == 3


@pytest.mark.parametrize(("row", "fields"), [("5", 1), ("5,0,0", 3), ("5,0,0,0,0,0", 6), ('5,"a,b"', 2), ("5,,,,,", 6)])
def test_a_row_with_too_few_or_many_fields_is_a_reject(tmp_path: Path, row: str, fields: int) -> None:
    """Its text is kept, none of its cells is believed, and its client gets no grant."""
    got = _of(tmp_path, f"{HEADER}\n1,1,1,1,1\n{row}\n")
    assert _why(got) == [(3, f"{fields} fields instead of 5")]
    assert [got.rejects[0][name] for name in HEADER.split(",")] == [None] * 5
    assert got.rejects[0]["reject_raw"] == row
    assert got.partial == [(5, ALL_BLANK)]
    assert got.rows == 2


def test_rejects_of_both_sorts_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Rows with too few fields and rows with bad cells, with blank lines and quoted newlines between them."""
    got = _of(tmp_path, f'{HEADER}\n\n1,1\nx,1,1,1,1\n  \n2,"a\nb",1,1,1\n\n3,1,1,1,1,1\ny,1,1,1,1\n')
    assert [(one["reject_line"], one["reject_raw"]) for one in got.rejects] == [
        (3, "1,1"),
        (4, "x,1,1,1,1"),
        (6, '2,"a\nb",1,1,1'),
        (9, "3,1,1,1,1,1"),
        (10, "y,1,1,1,1"),
    ]


def test_lines_without_anything_are_no_rows(tmp_path: Path) -> None:
    """Empty ones, and those with blanks alone, wherever they stand: also before the header and filling a block."""
    with _blocks_of(16):
        got = _of(tmp_path, f"\n\n{HEADER}\n\n  \n\t\n1,1,1,1,1\n" + "\n" * 40 + " \n" * 40)
    assert (got.rows, got.rejects) == (1, [])


def test_a_row_of_commas_is_a_row_without_an_id(tmp_path: Path) -> None:
    """What a spreadsheet leaves of a cleared row is told."""
    assert _why(_of(tmp_path, f"{HEADER}\n,,,,\n")) == [(2, "Client: no id")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("header", [HEADER, HEADER.replace("Client", '"Client"')])
@pytest.mark.parametrize("last", [True, False])
def test_bom_newlines_and_a_missing_last_newline_do_not_matter(
    tmp_path: Path, newline: str, bom: bytes, header: str, last: bool
) -> None:
    """The same two rows, and the reject in line 3."""
    text = newline.join([header, "1,1,1,1,1", "2,q,1,1,1"]) + (newline if last else "")
    got = _of(tmp_path, bom + text.encode())
    assert got.good == [(1, _says(*[ALLOWED] * 4))]
    assert _why(got) == [(3, "AllowSms: unknown token 'q'")]


def test_a_quote_in_the_middle_of_a_field_is_a_character(tmp_path: Path) -> None:
    """It opens nothing, so that the next rows are read."""
    got = _of(tmp_path, f'Name,{HEADER}\n24" screen,1,1,1,1,1\nb,2,1,1,1,1\n"c" d",3,1,1,1,1\ne,4,1,1,1,1\n')
    assert [one for one, _ in got.good] == [1, 2, 3, 4]


@pytest.mark.parametrize("size_bytes", [1 << 20, 10])
@pytest.mark.parametrize("row", ['2,"1,1,1,1\n3,1,1,1,1\n', '"2,1,1,1,1', '"2,1,1,1,1""\n'])
def test_a_quote_that_is_never_closed_is_told_with_its_line(tmp_path: Path, row: str, size_bytes: int) -> None:
    """The file was cut short, or cannot be trusted from there on."""
    with _blocks_of(size_bytes), pytest.raises(ExportError, match=r"a\.csv:5: a quote opens"):
        _of(tmp_path, f'{HEADER}\n1,"1",1,"\n",1\n\n{row}')


@pytest.mark.parametrize("size_bytes", [8, 9, 10, 64])
def test_a_line_that_never_ends_is_told_before_memory_runs_out(tmp_path: Path, size_bytes: int) -> None:
    """Far more than a row has, and not one newline: with its line, behind CR LF and blocks of any size."""
    text = f"{HEADER}\r\n1,1,1,1,1\r\n\r\n" + "x" * 5000
    with (
        _blocks_of(size_bytes),
        mock.patch.object(csv, "_LONGEST_RECORD_BYTES", 1000),
        pytest.raises(ExportError, match=r"a\.csv:4: 1,0\d\d bytes without a newline"),
    ):
        _of(tmp_path, text)


def test_a_quote_that_stays_open_too_long_is_told_before_memory_runs_out(tmp_path: Path) -> None:
    """A record of more than the longest length is none."""
    text = f'{HEADER}\n1,1,1,1,1\n2,"' + "1,1,1,1\n" * 1000
    with (
        _blocks_of(64),
        mock.patch.object(csv, "_LONGEST_RECORD_BYTES", 1000),
        pytest.raises(ExportError, match=r"a\.csv:3: .* not closed in the 10\d\d bytes"),
    ):
        _of(tmp_path, text)


@pytest.mark.parametrize("rows", [2, 50_000])
def test_a_quote_that_stays_open_in_the_header_is_told(tmp_path: Path, rows: int) -> None:
    """The file is not taken for one long header."""
    with pytest.raises(ExportError, match=r"a\.csv:2: a quote opens"):
        _of(tmp_path, f'\n"{HEADER}\n' + "1,1,1,1,1\n" * rows)


def test_a_header_with_damaged_bytes_is_told(tmp_path: Path) -> None:
    """It is UTF-8 otherwise: which name was meant nobody can tell."""
    with pytest.raises(ExportError, match=r"the header is not UTF-8.*\[export\] encoding"):
        _of(tmp_path, "Имя клиента,".encode() + b"\xc8,Client\n")


@pytest.mark.parametrize("text", ["\n", "\n\r\n\n", "\ufeff\n"])
def test_a_file_of_blank_lines_is_told(tmp_path: Path, text: str) -> None:
    """There is not even a header."""
    with pytest.raises(ExportError, match="only blank lines"):
        _of(tmp_path, text)


def test_a_header_may_lack_its_newline_and_hold_quoted_ones(tmp_path: Path) -> None:
    """Its bytes and lines are counted, so that those of the rows are right."""
    assert _of(tmp_path, HEADER) == Got()
    got = _of(tmp_path, f'"first\nname",{HEADER}\na,x,1,1,1,1\n')
    assert _why(got) == [(3, "Client: not a whole number 'x'")]


def test_damaged_bytes_do_not_matter_in_other_columns(tmp_path: Path) -> None:
    """In the name they are nobody's business, in a flag they are an unknown token, in a short row they are shown."""
    rows = "Я,1,1,1,1,1\nя,2,я,1,1,1\nя,3\nя,x,1,1,1,1\n".encode("cp1251")
    got = _of(tmp_path, f"Name,{HEADER}\nИмя,7,1,1,1,1\n".encode() + rows)
    assert got.good == [(7, _says(*[ALLOWED] * 4)), (1, _says(*[ALLOWED] * 4))]
    assert _why(got) == [
        (4, "AllowSms: unknown token '\ufffd'"),
        (5, "2 fields instead of 6"),
        (6, "Client: not a whole number 'x'"),
    ]
    assert [one["reject_raw"] for one in got.rejects] == ["\ufffd,2,\ufffd,1,1,1", "\ufffd,3", "\ufffd,x,1,1,1,1"]
    assert [one["Name"] for one in got.rejects] == ["\ufffd", None, "\ufffd"]


def test_a_character_between_two_blocks_is_not_broken(tmp_path: Path) -> None:
    """Blocks end at rows, never within a letter."""
    for size_bytes in range(1, 30):
        with _blocks_of(size_bytes):
            got = _of(tmp_path, f"{HEADER}\n1,да,нет,да,нет\n2,нет,да,жж,да\n")
        assert got.good == [(1, _says(ALLOWED, DENIED, ALLOWED, DENIED))]
        assert _why(got) == [(3, "AllowPush: unknown token 'жж'")]


def test_nul_bytes_make_a_cell_unreadable_and_no_more(tmp_path: Path) -> None:
    """Far into the file, where nobody looked for them."""
    filler = "1,1,1,1,1\n" * 1000
    got = _of(tmp_path, f"{HEADER}\n{filler}2\0,1,1,1,1\n3,1\0,1,1,1\n\0\n4,1,1,1,1\n")
    assert got.good[-1] == (4, _says(*[ALLOWED] * 4))
    assert [line for line, _ in _why(got)] == [1002, 1003, 1004]


def test_a_very_long_field_is_read(tmp_path: Path) -> None:
    """In a good row, in a short row, in a quoted cell; longer than the csv module's usual limit."""
    long = "x" * 200_000
    got = _of(tmp_path, f'Name,{HEADER}\n{long},1,1,1,1,1\n{long},2\n"{long}\n",3,q,1,1,1\n')
    assert [line for line, _ in _why(got)] == [3, 4]
    assert got.rejects[0]["reject_raw"] == f"{long},2"


def test_columns_may_share_a_name_that_is_not_mapped(tmp_path: Path) -> None:
    """Also the empty name, which a spreadsheet gives to columns right of the table."""
    got = _of(tmp_path, f"{HEADER},x,x,,\n1,1,1,1,1,a,b,,\n2,q,1,1,1,a,b,,\n3,1\n")
    assert got.good == [(1, _says(*[ALLOWED] * 4))]
    assert [line for line, _ in _why(got)] == [3, 4]


def test_columns_are_found_by_name_wherever_they_stand(tmp_path: Path) -> None:
    """Other names, another order, a channel that the export does not have, one column for two channels."""
    path = tmp_path / "a.csv"
    path.write_text("x,marketing,id,sms\n,1,5,0\n,нет,6,q\n")
    columns = ColumnSettings.model_validate(
        {"Client": "id", "AllowSms": "sms", "AllowEmail": "marketing", "AllowPush": "marketing"}
        | {"AllowEmailOnlineCheque": ""}
    )
    got, _ = _read(path, columns)
    assert got.good == [(5, _says(DENIED, ALLOWED, ALLOWED, BLANK))]
    assert got.partial == [(6, _says(BLANK, DENIED, DENIED, BLANK))]
    assert got.tokens["AllowEmailOnlineCheque"] == {}


def test_values_do_not_depend_on_bad_neighbours(tmp_path: Path) -> None:
    """Ids are parsed in another way once one of a block is bad: to the same result."""
    ids = [*range(1, 50), *(int(i) for i in np.random.default_rng(1).integers(1, LAST_ID, 50)), LAST_ID]
    rows = "".join(f"{i:>13},1,1,1,1\n" for i in ids)
    assert [one for one, _ in _of(tmp_path, f"{HEADER}\n{rows}").good] == ids
    assert [one for one, _ in _of(tmp_path, f"{HEADER}\n{rows}x,1,1,1,1\n").good] == ids
