"""However a table is written as text, it states the same; and what may be read in two ways is refused."""

import csv
import gzip
import io
import itertools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sync_job.config import ExportSettings, RunSettings, Settings
from sync_job.consent.channels import FIELDS, letters
from sync_job.errors import ConfigError, ExportError
from sync_job.exports import csv as csv_files
from sync_job.exports import csv_piece, id_map, lists, loader
from sync_job.exports.blocks import Rejects

HEADER = ("Client", "Имя", *FIELDS)
NAMES = ("Иванов Иван", "Пётр Щукин", 'ООО "Ромашка"', "Ольга\nЮрьевна", "a;b,c|d\te", "Яблочкова", "", "Сергей")
FLAGS = ("да", "нет", "1", "0", "true", "Нет", "", "Да")
ROWS = [(str(i + 1), NAMES[i % 8], *(FLAGS[(i + j) % 8] for j in range(4))) for i in range(60)]
CYRILLIC = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "cp1251",
    "koi8-r",
    "cp866",
    "iso8859-5",
)
ZONE = RunSettings.model_validate({}).zone


def _written(
    rows: Any, mark: str, newline: str = "\n", quoting: Any = csv.QUOTE_MINIMAL, header: tuple[str, ...] | None = HEADER
) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark, lineterminator=newline, quoting=quoting)
    # Python's writer quotes no newlines but its own.
    rows = [[cell.replace("\n", newline) for cell in row] for row in rows]
    writer.writerows([header, *rows] if header else rows)
    return out.getvalue()


def _zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def _zip(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("export.csv", content)
    return out.getvalue()


class Read:
    """What a file states, and what its report says."""

    def __init__(self, path: Path, content: bytes, *, first_look: bool = True, **keys: Any) -> None:
        path.write_bytes(content)
        self.rejects: list[dict[str, Any]] = []

        def sink(rejects: Rejects) -> None:
            self.rejects += rejects.table.to_pylist()

        asked = ExportSettings.model_validate({"as_of": "none"} | keys)
        self.export = loader.load(asked, ZONE, where=str(path), first_look=first_look, sink=sink)
        ids, said = self.export.statements.items()
        self.says = {int(client): letters(int(byte)) for client, byte in zip(ids, said, strict=True)}
        self.input = self.export.counts()["inputs"][0]
        counts = self.export
        assert counts.clients - counts.in_rejects_only + counts.duplicates + counts.rejects == counts.rows

    def why(self) -> list[tuple[int, str]]:
        """Return line and reasons of each reject."""
        return [(one["reject_line"], one["reject_reasons"]) for one in self.rejects]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Return what the plain file states: UTF-8, commas, LF."""
    return Read(tmp_path_factory.mktemp("plain") / "a.csv", _written(ROWS, ",").encode())


@pytest.mark.parametrize("code", CYRILLIC)
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_table_states_the_same_however_it_is_written(tmp_path: Path, plain: Read, code: str, mark: str) -> None:
    """Encodings by delimiters by quoting by newlines, each packed in one of three ways as well; the report says which.

    It is found out, or asked for.
    """
    assert plain.says[1] == "TFTF"
    packs: tuple[Callable[[bytes], bytes], ...] = (gzip.compress, _zstd, _zip)
    ways = itertools.product(("\n", "\r\n", "\r"), (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for pack, (newline, quoting) in zip(itertools.cycle(packs), ways, strict=False):
        content = _written(ROWS, mark, newline, quoting).encode(code)
        found_out: dict[str, Any] = {}
        said = {"encoding": code, "delimiter": mark}
        for asked, stored in ((found_out, content), (found_out, pack(content)), (said, content)):
            read = Read(tmp_path / "a.csv", stored, **asked)
            assert (read.says, read.rejects) == (plain.says, plain.rejects)
            names = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
            assert read.input["encoding"] == names.get(code, code)
            assert read.input["delimiter"] == mark
            assert read.input["newline"] == {"\n": "LF", "\r\n": "CR LF", "\r": "CR"}[newline]
            counts = read.export.counts()
            assert counts["tokens"] == plain.export.counts()["tokens"]


RARE = [("", "да", "да", "да", "да")] * 10 + [(one, "да", "да", "да", "да") for one in ("0ё", "ё0", "0Яx", "0Я;б")]
CELLS = st.text("абвЯёxyz09 ,;|\t\"'\n#", max_size=6)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(CELLS, *[st.sampled_from(("да", "нет", "1", "0"))] * 4), min_size=2, max_size=20),
    st.sampled_from(CYRILLIC),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
    st.integers(1, 200),
)
@example(RARE, "cp1251", ",", "\n", csv.QUOTE_MINIMAL, False, 1)
def test_random_tables_in_random_dialects_are_read_back(
    tmp_path: Path,
    rows: list[tuple[str, ...]],
    code: str,
    mark: str,
    newline: str,
    quoting: int,
    asked: bool,
    size_bytes: int,
) -> None:
    """Every client has its flags; where the encoding is not asked for, no flag is turned round."""
    table = [(str(place + 1), *row) for place, row in enumerate(rows)]
    content = _written(table, mark, newline, quoting).encode(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "BLOCK_BYTES", size_bytes)
        read = Read(tmp_path / "a.csv", content, encoding=code if asked else "auto", delimiter=mark)
    meant = {"да": "T", "нет": "F", "1": "T", "0": "F"}
    for client, row in enumerate(rows, 1):
        said = "".join(meant[flag] for flag in row[1:])
        if asked or code.startswith("utf"):
            assert read.says[client] == said
        else:
            assert all(found in (one, "-") for found, one in zip(read.says[client], said, strict=True))
    assert read.export.rows == len(rows)


# encodings


def test_text_that_turns_out_late_to_be_in_another_encoding_is_read(tmp_path: Path) -> None:
    """A block of ASCII, and then names in Windows-1251, also where a block ends within the text."""
    rows = [(str(i), "Smith", "1", "0", "1", "0") for i in range(1, 2000)]
    rows += [(str(i), "Щукин Пётр", "да", "нет", "да", "нет") for i in range(2000, 2100)]
    content = _written(rows, ",", header=("Client", "Name", *FIELDS)).encode("cp1251")
    for size_bytes in (1000, 5000, 8 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_files, "BLOCK_BYTES", size_bytes)
            read = Read(tmp_path / "a.csv", content)
        assert set(read.says.values()) == {"TFTF"}
        assert (len(read.says), read.export.rejects, read.input["encoding"]) == (2099, 0, "cp1251")


def test_utf8_with_a_few_damaged_bytes_stays_utf8(tmp_path: Path) -> None:
    """Names that are cut within a letter make no other encoding of a file."""
    content = _written(ROWS, ",").encode() + "77,Щ".encode()[:-1] + b",1,0,1,0\n"
    read = Read(tmp_path / "a.csv", content)
    assert read.says[77] == "TFTF"
    assert read.input["encoding"] == "utf-8"


def test_a_letter_cut_by_a_block_makes_no_other_encoding(tmp_path: Path) -> None:
    """The first letters beyond ASCII are in two blocks, wherever these end."""
    content = _written([("1", "a" * 20 + "яя€", "1", "0", "1", "0")], ",", header=("Client", "Name", *FIELDS)).encode()
    for size_bytes in range(1, 80):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_files, "BLOCK_BYTES", size_bytes)
            assert Read(tmp_path / "a.csv", content).input["encoding"] == "utf-8"


def test_what_an_encoding_does_not_have_is_a_replacement(tmp_path: Path) -> None:
    """Half a character at the end of UTF-16, and a byte that Windows-1251 leaves free, end in no error."""
    good = _written(ROWS[:3], ",")
    read = Read(tmp_path / "a.csv", (good + "9,x,1,1,1,1\n").encode("utf-16") + b"\x41")
    assert read.says[9] == "TTTT"
    read = Read(tmp_path / "a.csv", good.encode("cp1251") + b"9,\x98,\x98,0,1,1\n", encoding="windows-1251")
    assert read.why()[-1][1] == "AllowSms: unknown token '\ufffd'"


def test_a_byte_order_mark_goes_before_what_is_asked(tmp_path: Path) -> None:
    """It is there, and the configuration may be of last year."""
    assert Read(tmp_path / "a.csv", _written(ROWS, ",").encode("utf-8-sig"), encoding="cp1251").says[1] == "TFTF"


# delimiters


def test_the_delimiter_whose_header_has_the_client_wins(tmp_path: Path) -> None:
    """Also where all lines are alike under two, and where lines are ragged under the right one."""
    read = Read(tmp_path / "a.csv", "Client;Фамилия, имя;AllowSms\n1;А, Б;1\n2;В, Г;0\n".encode(), first_look=False)
    assert read.says == {1: "T---", 2: "F---"}
    text = "Client;AllowSms;AllowEmail;AllowPush;AllowEmailOnlineCheque\n1;1;1\n2;0\n3;1;1;1;1\n"
    assert Read(tmp_path / "b.csv", text.encode()).says == {1: "----", 2: "----", 3: "TTTT"}


def test_a_tie_of_delimiters_is_refused_with_a_word(tmp_path: Path) -> None:
    """Both give the client's column and as many fields in all lines."""
    text = "Client,x;Client\n1,2;3\n4,5;6\n"
    with pytest.raises(ExportError, match=r"set apart by ',' or by ';'.*\[export\] delimiter"):
        Read(tmp_path / "a.csv", text.encode(), first_look=False)


def test_excels_line_with_the_delimiter_is_heeded(tmp_path: Path) -> None:
    """It is no header and no row, and counts as a line."""
    text = "sep=;\r\n" + _written([*ROWS[:2], ("x", "", "1", "1", "1", "1")], ";", "\r\n")
    read = Read(tmp_path / "a.csv", text.encode("utf-8-sig"))
    assert read.why() == [(5, "Client: not a whole number 'x'")]


# headers


def test_names_are_matched_without_case_blanks_and_strokes(tmp_path: Path) -> None:
    """The report says which; rejects have the configured names, so that they can be fed in again and be erased."""
    text = "client,allow_sms,ALLOW EMAIL,Allow-Push,AllowEmailOnlineCheque\n1,1,0,1,0\nx,1,1,1,1\n"
    read = Read(tmp_path / "a.csv", text.encode())
    assert read.says == {1: "TFTF"}
    assert read.input["renamed"] == {
        "client": "Client",
        "allow_sms": "AllowSms",
        "ALLOW EMAIL": "AllowEmail",
        "Allow-Push": "AllowPush",
    }
    assert list(read.rejects[0])[:5] == ["Client", *FIELDS]


PLACES = {"Client": "1", **{name: str(place) for place, name in enumerate(FIELDS, 3)}}


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_file_without_a_header_has_columns_by_their_places(tmp_path: Path, plain: Read, mark: str) -> None:
    """Its first line is a row, and rejects have their lines."""
    text = _written([*ROWS, ("x", "", "1", "1", "1", "1")], mark, header=None)
    read = Read(tmp_path / "a.csv", text.encode("cp1251"), header=False, columns=PLACES)
    assert read.says == plain.says
    assert [line for line, _ in read.why()] == [len(text.splitlines())]
    with pytest.raises(ExportError, match=r"no column '9'; the header has '1', '2'"):
        Read(tmp_path / "a.csv", text.encode(), header=False, columns=PLACES | {"AllowSms": "9"})


def test_a_header_that_is_a_row_has_a_hint(tmp_path: Path) -> None:
    """The message says what to configure."""
    with pytest.raises(ExportError, match="header = false"):
        Read(tmp_path / "a.csv", b"1,1,0,1,0\n2,1,0,1,0\n")


# lines that are no rows


def test_comments_are_skipped_and_counted(tmp_path: Path) -> None:
    """Before the header and after, with quotes in them; not in quotes, and not where none are configured."""
    text = (
        '# by "CRM", "unclosed\n'
        "Client,Note,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n"
        '#"half\n'
        '1,"a\n# b\n#c",1,1,1,1\n'
        "#\n"
        "x,#,1,1,1,1\n"
        '# end "'
    )
    for size_bytes in (1, 7, 30, 8 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_files, "BLOCK_BYTES", size_bytes)
            read = Read(tmp_path / "a.csv", text.encode(), comment="#")
        assert read.says == {1: "TTTT"}
        assert read.why() == [(8, "Client: not a whole number 'x'")]
        assert (read.export.rows, read.input["comments"]) == (2, 4)
    read = Read(tmp_path / "b.csv", b"Client,AllowSms\n# 5,1\n6,1\n", first_look=False)
    assert read.why() == [(2, "Client: not a whole number '# 5'")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "cp1251"])
def test_headers_of_files_put_together_are_skipped_and_counted(
    tmp_path: Path, plain: Read, newline: str, code: str
) -> None:
    """Each with its byte order mark; rejects behind them have their lines."""
    part = _written(ROWS, ",", newline)
    last = _written([("x", "", "1", "1", "1", "1")], ",", newline, header=None)
    for size_bytes in (50, 8 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_files, "BLOCK_BYTES", size_bytes)
            read = Read(tmp_path / "a.csv", part.encode(code) * 3 + last.encode(code.removesuffix("-sig")))
        assert read.says == plain.says
        lines = 3 * len(part.replace("\r\n", "\n").replace("\r", "\n").splitlines()) + 1
        assert read.why() == [(lines, "Client: not a whole number 'x'")]
        assert (read.export.rows, read.input["repeated_headers"]) == (181, 2)


def test_a_header_in_a_cell_is_no_header(tmp_path: Path) -> None:
    """A note may quote one; and a row that only begins like one is a row."""
    header = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque,Note"
    text = f'{header}\n1,1,1,1,1,"\n{header}\n"\nx,1,1,1,1,\n{header}s\n'
    read = Read(tmp_path / "a.csv", text.encode())
    assert read.says == {1: "TTTT"}
    assert [line for line, _ in read.why()] == [5, 6]
    assert read.input["repeated_headers"] == 0


@pytest.mark.parametrize("mark", [",", ";"])
@pytest.mark.parametrize(("head", "row"), [(0, 1), (1, 0), (1, 1), (2, 3), (3, 0)])
def test_delimiters_at_the_end_of_lines_are_no_columns(tmp_path: Path, mark: str, head: int, row: int) -> None:
    """Of the header, of the rows or of both; a field with something in it is one field too many."""
    names = ["Client", *FIELDS]
    text = mark.join(names + [""] * head) + "\n"
    for client in range(1, 40):
        text += mark.join([str(client), "1", "0", "1", "0"] + [""] * row) + "\n"
    assert set(Read(tmp_path / "a.csv", text.encode()).says.values()) == {"TFTF"}
    if row > head:
        text += mark.join(["50", "1", "0", "1", "0", *[""] * (row - 1), "z"]) + "\n"
        read = Read(tmp_path / "a.csv", text.encode())
        assert read.why() == [(41, f"{5 + row} fields instead of {5 + head}")]
        assert read.says[50] == "----"
        assert read.rejects[0]["reject_raw"].endswith(f"{mark}z")


# whole or not


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("code", ["utf-8", "utf-16", "cp1251"])
def test_a_last_line_without_a_newline_denies_and_grants_nothing(tmp_path: Path, newline: str, code: str) -> None:
    """It may be cut short; it is a reject with that reason, and its client gets no grant from other rows either."""
    rows = [("1", "Я", "1", "1", "1", "1"), ("2", "", "1", "1", "1", "1"), ("2", "", "1", "0", "1", "1")]
    content = _written(rows, ",", newline).removesuffix(newline).encode(code)
    asked: dict[str, Any] = {"encoding": code}
    read = Read(tmp_path / "a.csv", content, **asked)
    assert read.says[1] == "TTTT"
    assert read.says[2][1] == "F"
    assert read.export.ungranted.tolist() == [2]
    (reason,) = read.export.counts()["reasons"]
    assert reason == "the last line: no newline at its end, so that it may be cut short"
    assert read.why() == [(4, reason)]
    read = Read(tmp_path / "a.csv", content, final_newline=False, **asked)
    assert (read.says[1], read.rejects) == ("TTTT", [])
    assert (
        Read(tmp_path / "a.csv", content + (newline + "  ").encode(code.replace("16", "16-le")), **asked).rejects == []
    )


def test_a_last_line_that_is_ragged_is_rejected_once(tmp_path: Path) -> None:
    """Too few fields say it already."""
    read = Read(tmp_path / "a.csv", b"Client,AllowSms,AllowEmail\n1,1,1\n2,1", first_look=False)
    assert read.why() == [(3, "2 fields instead of 3")]
    assert read.says == {1: "TT--", 2: "----"}


# lines and raw text


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            ["good", "quoted", "bad id", "bad flag", "short", "long", "blank", "comment", "header", "quoted comment"]
        ),
        max_size=15,
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1251", "koi8-r"]),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 120),
)
@example(["comment", "header", "quoted", "bad id"], "cp1251", "\r\n", 3)
def test_rejects_have_their_line_and_text_behind_everything(
    tmp_path: Path, kinds: list[str], code: str, newline: str, size_bytes: int
) -> None:
    """Quoted newlines, comments, repeated headers, blank lines and blocks; the text is as decoded."""
    header = ",".join(HEADER)
    texts = {
        "good": "{},Я,да,1,1,1",
        "quoted": '{},"Щ\nщ, ""q""",да,нет,1,1',
        "bad id": 'ы{},"a\nb",1,1,1,1',
        "bad flag": "{},Ё,возможно,1,1,1",
        "short": "{},Ж",
        "long": "{},Ж,1,1,1,1,1",
        "blank": "",
        "comment": '# {} "ю',
        "header": header,
        "quoted comment": '{},"\n# ""\n' + header + '\n",1,1,1,1',
    }
    line, lines, expected = 2, [header], []
    for place, kind in enumerate(kinds, 1):
        text = texts[kind].format(place)
        lines.append(text)
        if kind in ("bad id", "bad flag", "short", "long"):
            expected.append((line, text.replace("\n", newline)))
        line += 1 + text.count("\n")
    content = ("\n".join(lines) + "\n").replace("\n", newline).encode(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "BLOCK_BYTES", size_bytes)
        read = Read(tmp_path / "a.csv", content, comment="#", kind="delta", encoding=code.removesuffix("-sig"))
    assert [(one["reject_line"], one["reject_raw"]) for one in read.rejects] == expected
    assert read.input["comments"] == kinds.count("comment")
    assert read.input["repeated_headers"] == kinds.count("header")
    no_rows = sum(kinds.count(kind) for kind in ("blank", "comment", "header"))
    assert read.export.rows == len(kinds) - no_rows
    json.dumps(read.export.counts())


# the same for lists, maps and dumps


@pytest.mark.parametrize(("code", "mark"), [("utf-16", ";"), ("cp1251", "\t"), ("utf-8-sig", "|")])
def test_lists_and_maps_are_read_in_any_dialect(tmp_path: Path, code: str, mark: str) -> None:
    """Withdrawals, evidence and id maps: found out, and their names matched as those of exports."""
    settings_ = Settings.model_validate({"export": {"as_of": "none"}, "endpoint": {"base_url": "http://127.0.0.1:9"}})
    path = tmp_path / "list.csv"
    path.write_bytes(_written([("5", "Щукин, Пётр"), ("6", "Я")], mark, header=("client", "Request Ref")).encode(code))
    said: dict[str, Any] = {"received_at": 1e9, "scope": "all", "basis": "objection", "now": 2e9}
    found = lists.read_withdrawals(str(path), settings_, **said)
    assert found.table.column("request_ref").to_pylist() == ["Щукин, Пётр", "Я"]
    names = ("CLIENT", "channels", "granted at", "method", "evidence_ref")
    rows = [("5", "sms", "2024-01-01", "форма", "а1"), ("6", "push", "2024-01-01", "форма", "а2")]
    path.write_bytes(_written(rows, mark, header=names).encode(code))
    found = lists.read_reconsents(str(path), settings_, now=2e9)
    assert found.table.column("evidence_ref").to_pylist() == ["а1", "а2"]
    path.write_bytes(
        _written([("5", "50", "я"), ("6", "60", "ю")], mark, header=("CRM ID", "platform-id", "x")).encode(code)
    )
    assert id_map.read(path, id_map.OF_THE_CRM).map.new.tolist() == [50, 60]


def test_lists_that_may_be_cut_short_deny_and_grant_nothing(tmp_path: Path) -> None:
    """A withdrawal is taken from a last line without a newline; evidence is not, and a map is refused."""
    settings_ = Settings.model_validate({"export": {"as_of": "none"}, "endpoint": {"base_url": "http://127.0.0.1:9"}})
    path = tmp_path / "list.csv"
    path.write_bytes(b"Client\n5\n6")
    said: dict[str, Any] = {"received_at": 1e9, "scope": "all", "basis": "objection", "now": 2e9}
    assert lists.read_withdrawals(str(path), settings_, **said).table.column("client").to_pylist() == [5, 6]
    row = "sms,2024-01-01,form,e1"
    path.write_bytes(f"Client,channels,granted_at,method,evidence_ref\n5,{row}\n6,{row}".encode())
    found = lists.read_reconsents(str(path), settings_, now=2e9)
    assert found.table.column("client").to_pylist() == [5]
    assert [(one.line, one.why) for one in found.rejects] == [(3, ": ".join(csv_piece.LAST_LINE))]
    path.write_bytes(b"crm_id,platform_id\n5,50\n6,6")
    with pytest.raises(ConfigError, match="may be cut short"):
        id_map.read(path, id_map.OF_THE_CRM)


def test_a_line_of_64_mb_is_told_and_nothing_hangs(tmp_path: Path) -> None:
    """A file of NULs after its table, as a disk leaves it, and a quote that is never closed."""
    table = _written(ROWS * 5, ",").encode()
    line = table.count(b"\n") + 1
    with pytest.raises(ExportError, match=rf"a\.csv:{line}: .* bytes without a newline"):
        Read(tmp_path / "a.csv", table + b"\0" * (80 << 20))
    with pytest.raises(ExportError, match=rf"a\.csv:{line}: a quote opens"):
        Read(tmp_path / "a.csv", table + b'9,"' + b"a,b\n" * (20 << 20))


@pytest.mark.parametrize("content", [b"\0" * 50, b"Client\0,AllowSms\n" + b"1,1\0\n" * 9])
def test_nuls_are_no_text(tmp_path: Path, content: bytes) -> None:
    """Where they are not those of UTF-16, a file with them in its first lines is refused."""
    with pytest.raises(ExportError, match="neither text nor Parquet"):
        Read(tmp_path / "a.csv", content, first_look=False)
