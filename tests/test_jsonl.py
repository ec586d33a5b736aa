"""JSON lines: what values say, what is no row, and that numbers keep their digits."""

import json
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.config import ExportSettings
from sync_job.consent.channels import FIELDS, letters
from sync_job.errors import ExportError
from sync_job.exports import jsonl, loader
from sync_job.exports.blocks import Rejects

ONLY_SMS = {"columns": {"AllowEmail": "", "AllowPush": "", "AllowEmailOnlineCheque": ""}}


def _load(path: Path, **keys: Any) -> tuple[loader.Export, dict[int, str], list[dict[str, Any]]]:
    """Return the export, what it says of each client, and its rejects."""
    rejects: list[dict[str, Any]] = []

    def sink(found: Rejects) -> None:
        rejects.extend(found.table.to_pylist())

    conditions = ExportSettings.model_validate({"as_of": "none"} | ONLY_SMS | keys)
    export = loader.load(conditions, ZoneInfo("UTC"), where=str(path), first_look=True, sink=sink)
    assert export.clients - export.in_rejects_only + export.duplicates + export.rejects == export.rows
    ids, values = export.statements.items()
    return export, {int(id_): letters(int(byte)) for id_, byte in zip(ids, values, strict=True)}, rejects


def _written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_an_object_is_a_row(tmp_path: Path) -> None:
    """True, false, null, numbers and strings; a key that is not there is blank, and blank lines are none."""
    lines = [
        '{"Client": 1, "AllowSms": true, "AllowEmail": false, "AllowPush": null, "AllowEmailOnlineCheque": 1}',
        "",
        '{"AllowSms": "нет", "Client": "2", "more": {"a": [1]}}',
        '  {"Client": 3.0, "AllowSms": 0.0}  ',
    ]
    export, said, rejects = _load(_written(tmp_path, *lines), columns={})
    assert said == {1: "TF-T", 2: "F---", 3: "F---"}
    assert (rejects, export.inputs[0].format) == ([], "jsonl")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"Client": 1e9, "AllowSms": 1}', "Client: scientific notation, as Excel writes it: digits are lost '1e9'"),
        ('{"Client": 123456789012345678901, "AllowSms": 1}', "Client: outside 1 to 2147483647 '123456789012345678901'"),
        ('{"Client": 9007199254740993, "AllowSms": 1}', "Client: outside 1 to 2147483647 '9007199254740993'"),
        ('{"Client": -0, "AllowSms": 1}', "Client: outside 1 to 2147483647 '-0'"),
        ('{"Client": true, "AllowSms": 1}', "Client: not a whole number 'true'"),
        ('{"Client": [5], "AllowSms": 1}', """Client: not a whole number '["5"]'"""),
        ('{"Client": NaN, "AllowSms": 1}', "Client: no id"),
        ('{"Client": 5, "AllowSms": [true]}', "AllowSms: unknown token '[true]'"),
        ('{"Client": 5, "AllowSms": {}}', "AllowSms: unknown token '{}'"),
        ('{"Client": 5, "AllowSms": Infinity}', "AllowSms: unknown token 'Infinity'"),
        ('{"Client": 5, "AllowSms": false, "AllowSms": true}', "a key is there twice"),
        ('{"Client": 5, "AllowSms": tru', "not a JSON object"),
        ('[{"Client": 5, "AllowSms": true}]', "not a JSON object"),
        ('{"Client": 5, "AllowSms": true} {"Client": 6}', "not a JSON object"),
        ('{"Client": 5, "AllowSms": ' + "[" * 100_000, "not a JSON object"),
        ("5", "not a JSON object"),
    ],
)
def test_what_is_no_row_is_rejected(tmp_path: Path, line: str, why: str) -> None:
    """With its line, its text and the reason; the rows around it count, and its client is granted nothing."""
    path = _written(tmp_path, '{"Client": 5, "AllowSms": 1}', "", line, '{"Client": 7, "AllowSms": 1}')
    export, said, rejects = _load(path)
    assert said.pop(7) == "T---"
    assert [(one["reject_line"], one["reject_reasons"], one["reject_raw"]) for one in rejects] == [(3, why, line)]
    assert export.ungranted.tolist() == ([5] if '"Client": 5' in line else [])


def test_the_last_line_need_not_end(tmp_path: Path) -> None:
    """An object that is closed was not cut short; a byte order mark is none of it."""
    path = tmp_path / "a.ndjson"
    path.write_bytes("\ufeff".encode() + b'{"Client": 1, "AllowSms": true}\r\n{"Client": 2, "AllowSms": false}')
    assert _load(path)[1] == {1: "T---", 2: "F---"}


def test_bytes_that_are_not_utf8_are_shown(tmp_path: Path) -> None:
    """In a name they do not matter."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        '{"Client": 1, "AllowSms": true, "name": "é€"}\n'.encode() + b'{"Client": 2, "AllowSms": "\xff"}\n'
    )
    _, said, rejects = _load(path, encoding="utf-8")
    assert said == {1: "T---", 2: "----"}
    assert rejects[0]["reject_reasons"] == "AllowSms: unknown token '\ufffd'"


def test_a_column_may_come_late(tmp_path: Path) -> None:
    """Writers leave nulls out: the file is looked through for a key that its first rows do not have."""
    lines = [f'{{"Client": {number}}}' for number in range(1, 40)]
    with mock.patch.object(jsonl, "BLOCK_BYTES", 50):
        said = _load(_written(tmp_path, *lines, '{"client": 50, "allow_sms": 0}'), kind="delta")[1]
        assert (said[39], said[50]) == ("----", "F---")
        said = _load(_written(tmp_path, *lines, '{"Client": 50, "AllowSms": 0}'), kind="delta")[1]
        assert said[50] == "F---"


def test_names_are_matched_as_in_text(tmp_path: Path) -> None:
    """And where a row has the very name, that is meant."""
    lines = ['{"CLIENT": 1, "allow_sms": true}', '{"Client": 2, "AllowSms": false}']
    with mock.patch.object(jsonl, "BLOCK_BYTES", 10):
        assert _load(_written(tmp_path, *lines))[1] == {1: "T---", 2: "F---"}


def test_each_line_may_write_a_key_otherwise(tmp_path: Path) -> None:
    """Also far behind the block where keys were first met; an exact key goes first, and of two like it none counts."""
    first = [f'{{"Client": {id_}, "AllowSms": true}}' for id_ in range(10, 60)]
    lines = [
        '{"client": 1, "allow_sms": false}',
        '{"Client": 2, "allow sms": true, "AllowSms": false}',
        '{"Client": 3, "allow sms": true, "ALLOWSMS": true}',
        '{"CLIENT": 4, "AllowSms": true}',
    ]
    with mock.patch.object(jsonl, "BLOCK_BYTES", 100):
        _, said, rejects = _load(_written(tmp_path, *first, *lines))
    assert {id_: said.get(id_) for id_ in (1, 2, 3, 4)} == {1: "F---", 2: "F---", 3: "----", 4: "T---"}
    assert [one["reject_reasons"] for one in rejects] == ["a key is there twice"]


def test_a_key_like_another_column_may_come_first(tmp_path: Path) -> None:
    """Some lines have the exact key, and some only one like it, in the same block."""
    lines = ['{"Client": 1, "allow_sms": false}', '{"Client": 2, "AllowSms": true}', '{"Client": 3, "allow_sms": true}']
    _, said, rejects = _load(_written(tmp_path, *lines))
    assert (said, rejects) == ({1: "F---", 2: "T---", 3: "T---"}, [])


def test_a_file_without_an_object_is_refused(tmp_path: Path) -> None:
    """As one object over several lines is."""
    with pytest.raises(ExportError, match="no line of the file is a JSON object"):
        _load(_written(tmp_path, "{", '"Client": 1, "AllowSms": true', "}"), format="jsonl")
    (tmp_path / "b.json").write_text('[\n {"Client": 1}\n]')
    with pytest.raises(ExportError, match="a JSON array"):
        _load(tmp_path / "b.json")


VALUES = st.one_of(st.none(), st.booleans(), st.sampled_from([0, 1, 1.0, "1", "да", "x", " 0 ", [], {"a": 1}]))
ROWS = st.lists(
    st.one_of(
        st.just("{no"), st.just(""),
        st.tuples(
            st.one_of(st.integers(-1, 2**32), st.just("7"), st.just(7.5)), st.lists(VALUES, min_size=4, max_size=4)
        ),
    ),
    max_size=8,
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(ROWS, st.integers(8, 400))
def test_lines_are_those_of_a_plain_reading(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], size_bytes: int
) -> None:
    """Whatever the blocks: an *allowed* is true, 1, 1.0, "1" or "да" in a good row, and nothing else."""
    yes, no = (True, 1, "1", "да"), (False, 0, " 0 ")
    lines, good, bad = [json.dumps({"Client": 99, **dict.fromkeys(FIELDS, False)})], {99: "FFFF"}, set()
    for row in rows:
        if isinstance(row, str):
            lines.append(row)
            continue
        client, says = row
        lines.append(json.dumps({"Client": client, **dict(zip(FIELDS, says, strict=True))}, ensure_ascii=False))
        readable = all(one is None or one in (*yes, *no) for one in says)
        if client in ("7",) or (isinstance(client, int) and 1 <= client < 2**31):
            if readable:
                good[int(client)] = "".join("-" if one is None else "T" if one in yes else "F" for one in says)
            else:
                bad.add(int(client))
    path = tmp_path_factory.getbasetemp() / "plain.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    with mock.patch.object(jsonl, "BLOCK_BYTES", size_bytes):
        found, said, _ = _load(path, columns={})
    clients = [row[0] for row in rows if not isinstance(row, str)]
    for client, says in good.items():
        if [str(one) for one in clients].count(str(client)) <= 1 and client not in bad:
            assert said[client] == says
    assert set(said) == set(good) | bad
    assert set(found.ungranted.tolist()) == bad
    assert found.rows == sum(bool(line) for line in lines)
