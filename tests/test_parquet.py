import io
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.config import ColumnSettings, RunSettings
from sync_job.consent.channels import ALLOWED, BLANK, DENIED, FIELDS, pack
from sync_job.errors import ExportError
from sync_job.exports import parquet, sources
from sync_job.exports.blocks import Block, Columns

ZONE = RunSettings.model_validate({}).zone
MARKS = {ALLOWED: "1", DENIED: "0", BLANK: None}


def _blocks(path: Path, **columns: str) -> list[Block]:
    source = sources.find(str(path), "parquet")[0]
    mapped = ColumnSettings.model_validate(columns)
    return list(parquet.read(source, Columns.within(mapped, parquet.header(source)), ZONE))


def _good(found: list[Block]) -> list[tuple[int, int]]:
    return [pair for block in found for pair in zip(block.ids.tolist(), block.values.tolist(), strict=True)]


def _rejects(found: list[Block]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    line = 0
    for block in found:
        rows += block.rejects.after(line).table.to_pylist() if block.rejects is not None else []
        line += block.lines
    return rows


def _why(found: list[Block]) -> list[tuple[int, str]]:
    return [(row["reject_line"], row["reject_reasons"]) for row in _rejects(found)]


def _table(ids: pa.Array, flags: pa.Array, **more: pa.Array) -> pa.Table:
    return pa.table({"Client": ids} | dict.fromkeys(FIELDS, flags) | more)


def _written(tmp_path: Path, table: pa.Table, **options: Any) -> Path:
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.uint32(),
        pa.float64(),
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int32(), pa.int64()),
    ],
    ids=str,
)
def test_ids_of_any_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    """Also integers that pandas made floats because of a gap."""
    ids = pa.array(["1", None, "127"])
    ids = ids.cast(kind.value_type).dictionary_encode() if pa.types.is_dictionary(kind) else ids.cast(kind)
    found = _blocks(_written(tmp_path, _table(ids, pa.array([True] * 3))))
    assert _good(found) == [(1, pack([ALLOWED] * 4)), (127, pack([ALLOWED] * 4))]
    assert _why(found) == [(2, "Client: no id")]


@pytest.mark.parametrize(
    "flags",
    [
        pa.array([True, False, None]),
        pa.array([1, 0, None], pa.int8()),
        pa.array([1, 0, None], pa.int64()),
        pa.array([1.0, 0.0, None]),
        pa.array(["Да", "нет", None]),
        pa.array(["Да", "нет", ""], pa.large_string()),
        pa.array(["Да", "нет", None]).dictionary_encode(),
        pa.array([b"true", b"false", None]),
    ],
    ids=lambda array: str(array.type),
)
def test_flags_of_any_type_are_read(tmp_path: Path, flags: pa.Array) -> None:
    """Allowed, denied, and nothing for a null."""
    found = _blocks(_written(tmp_path, _table(pa.array([1, 2, 3]), flags)))
    assert _good(found) == [(1, pack([ALLOWED] * 4)), (2, pack([DENIED] * 4)), (3, pack([BLANK] * 4))]


def test_a_column_of_nulls_states_nothing(tmp_path: Path) -> None:
    """As pandas writes a column that is empty throughout."""
    found = _blocks(_written(tmp_path, _table(pa.array([1]), pa.nulls(1))))
    assert _good(found) == [(1, pack([BLANK] * 4))]
    assert found[0].tokens["AllowSms"] == {"": 1}


@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
def test_rows_come_in_order_over_row_groups_and_batches(tmp_path: Path, batch_rows: int) -> None:
    """Each reject has its row's number in the file and all of its columns, however the file is cut."""
    ids = [str(i) if i % 7 else f"x{i}" for i in range(1, 51)]
    names = [f"n{i}" for i in range(1, 51)]
    path = _written(tmp_path, _table(pa.array(ids), pa.array(["1"] * 50), Name=pa.array(names)), row_group_size=8)
    with mock.patch.object(parquet, "BATCH_ROWS", batch_rows):
        found = _blocks(path)
    assert len(found) == sum(-(-rows // batch_rows) for rows in (8, 8, 8, 8, 8, 8, 2))
    assert [one for one, _ in _good(found)] == [i for i in range(1, 51) if i % 7]
    assert [(row["reject_line"], row["Client"], row["Name"]) for row in _rejects(found)] == [
        (i, f"x{i}", f"n{i}") for i in range(7, 51, 7)
    ]


def test_batches_agree_where_a_dictionary_grew_too_large(tmp_path: Path) -> None:
    """A flag with so many tokens that the writer gave up its dictionary is read with the same row numbers."""
    flags = pa.array([f"{i:040d}" if i % 3 else "1" for i in range(5000)])
    table = _table(pa.array(range(1, 5001)), pa.array(["1"] * 5000)).set_column(1, "AllowSms", flags)
    path = _written(tmp_path, table, dictionary_pagesize_limit=10_000, data_page_size=1000)
    with mock.patch.object(parquet, "BATCH_ROWS", 700):
        rows = _rejects(_blocks(path))
    assert [int(row["Client"]) for row in rows] == [row["reject_line"] for row in rows]
    assert [row["reject_line"] for row in rows] == [i + 1 for i in range(5000) if i % 3]


def test_a_reject_has_all_columns_of_the_file_as_text(tmp_path: Path) -> None:
    """Also those that are not mapped, of whatever type; the raw text is its cells, joined."""
    more = {"name": pa.array(["Я"]), "tags": pa.array([[1, 2]]), "since": pa.array([0], pa.date32())}
    path = _written(tmp_path, _table(pa.array([0]), pa.array([None], pa.string()), **more))
    assert _rejects(_blocks(path)) == [
        {"Client": "0"}
        | dict.fromkeys(FIELDS)
        | {"name": "Я", "tags": "[1, 2]", "since": "1970-01-01"}
        | {"reject_file": str(path), "reject_line": 1, "reject_raw": "0,,,,,Я,[1, 2],1970-01-01"}
        | {"reject_reasons": "Client: outside 1 to 2147483647 '0'"}
    ]


def test_a_rejected_row_keeps_its_denials_and_loses_its_grants(tmp_path: Path) -> None:
    """As in CSV; the reasons are counted without the cell."""
    table = pa.table({"Client": [5, 6], "AllowSms": ["0", "1"], "AllowEmail": ["1", "1"], "AllowPush": ["q", "1"]})
    (block,) = _blocks(_written(tmp_path, table))
    assert _good([block]) == [(6, pack([ALLOWED, ALLOWED, ALLOWED, BLANK]))]
    assert block.partial_ids.tolist() == [5]
    assert block.partial_values.tolist() == [pack([DENIED, BLANK, BLANK, BLANK])]
    assert block.reasons == {"AllowPush: unknown token": 1}
    assert block.rows == 2


def test_strings_that_are_not_utf8_do_not_matter_in_other_columns(tmp_path: Path) -> None:
    """Parquet promises UTF-8 and nobody checks; in a flag it is an unknown token, shown with U+FFFD."""
    bad = pa.array([b"\xe9", b"1"]).view(pa.string())
    found = _blocks(_written(tmp_path, _table(pa.array([1, 2]), bad, name=bad)))
    assert _good(found) == [(2, pack([ALLOWED] * 4))]
    assert _why(found) == [(1, "; ".join(f"{name}: unknown token '\ufffd'" for name in FIELDS))]
    assert _rejects(found)[0]["name"] == "\ufffd"


def test_columns_may_share_a_name_that_is_not_mapped(tmp_path: Path) -> None:
    """The raw text has both."""
    arrays = [pa.array(["x"])] + [pa.array(["1"])] * 4 + [pa.array(["a"]), pa.array(["b"])]
    path = _written(tmp_path, pa.Table.from_arrays(arrays, names=["Client", *FIELDS, "n", "n"]))
    assert _rejects(_blocks(path))[0]["reject_raw"] == "x,1,1,1,1,a,b"


@pytest.mark.parametrize("flags", [pa.array([["1"]]), pa.array([{"a": "1"}])], ids=["list", "record"])
def test_a_mapped_column_of_lists_or_records_is_refused(tmp_path: Path, flags: pa.Array) -> None:
    """The message names the column."""
    table = pa.table({"Client": [1], "AllowSms": flags})
    with pytest.raises(ExportError, match=r"a\.parquet: column 'AllowSms' holds lists or records"):
        _blocks(_written(tmp_path, table))


def test_times_are_read_from_timestamps_and_strings_alike(tmp_path: Path) -> None:
    """To the microsecond, also from nanoseconds."""
    seconds = 1_700_000_000
    for at in (
        pa.array([seconds * 10**9 + 999], pa.timestamp("ns")),
        pa.array([seconds], pa.timestamp("s", "Europe/Moscow")),
        pa.array(["2023-11-14T22:13:20"]),
    ):
        (block,) = _blocks(_written(tmp_path, _table(pa.array([1]), pa.array([True]), at=at)), consent_changed_at="at")
        assert block.times is not None
        assert block.times.tolist() == [seconds * 10**6]


def test_the_sizes_of_blocks_add_up_to_the_file(tmp_path: Path) -> None:
    """Progress gets to the end, also in a file with more rows than bytes."""
    path = _written(tmp_path, _table(pa.array([1] * 50_000), pa.array([True] * 50_000)), row_group_size=7000)
    assert path.stat().st_size < 50_000
    found = _blocks(path)
    assert sum(block.size_bytes for block in found) == path.stat().st_size
    assert sum(block.rows for block in found) == sum(block.lines for block in found) == 50_000


def test_a_file_without_rows_has_no_blocks(tmp_path: Path) -> None:
    """Its header is read all the same."""
    path = _written(tmp_path, _table(pa.array([], pa.int64()), pa.array([], pa.string())))
    assert parquet.header(sources.find(str(path), "auto")[0]) == ["Client", *FIELDS]
    assert _good(_blocks(path)) == []


def test_a_header_is_the_names_of_the_outermost_columns(tmp_path: Path) -> None:
    """A record is one column, and a name may hold a dot."""
    path = _written(tmp_path, pa.table({"Client": [1], "a.b": [1], "c": [{"d": 1}]}))
    assert parquet.header(sources.find(str(path), "auto")[0]) == ["Client", "a.b", "c"]


STATEMENTS = st.tuples(*[st.sampled_from([ALLOWED, DENIED, BLANK])] * 4)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 2**31 - 1), STATEMENTS), max_size=30),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
)
def test_any_table_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, tuple[int, ...]]],
    group_rows: int,
    batch_rows: int,
    encoded: bool,
) -> None:
    """Every id and every statement, whatever the groups, batches and encodings."""
    table = {"Client": pa.array([id_ for id_, _ in rows], pa.int64())}
    for place, name in enumerate(FIELDS):
        flags = pa.array([MARKS[says[place]] for _, says in rows], pa.string())
        table[name] = flags.dictionary_encode() if encoded else flags
    path = _written(tmp_path_factory.getbasetemp(), pa.table(table), row_group_size=group_rows, use_dictionary=encoded)
    with mock.patch.object(parquet, "BATCH_ROWS", batch_rows):
        found = _blocks(path)
    assert _good(found) == [(id_, pack(says)) for id_, says in rows]


def _sample(compression: str) -> bytes:
    flags = pa.array(["1", "0", None, "да", "q"] * 8)
    table = pa.table(
        {
            "Client": pa.array(range(1, 41)),
            "AllowSms": flags,
            "AllowEmail": flags.dictionary_encode(),
            "AllowPush": pa.array([True, False] * 20),
            "AllowEmailOnlineCheque": pa.array([0, 1] * 20, pa.int8()),
            "at": pa.array(range(40), pa.timestamp("us")),
            "name": pa.array(["é"] * 40),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=16, compression=compression)
    return out.getvalue()


def _try(path: Path, content: bytes) -> ExportError | None:
    """Return why a damaged file was refused, or none when it was read; anything else is an error of ours."""
    path.write_bytes(content)
    try:
        _rejects(_blocks(path, consent_changed_at="at"))
    except ExportError as exc:
        return exc
    return None


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    """At any length, with the file's name; the end of a Parquet file is its table of contents."""
    path, whole = tmp_path / "a.parquet", _sample("snappy")
    assert _try(path, whole) is None
    for length in [*range(4, 80), *range(80, len(whole), 61), *range(len(whole) - 20, len(whole))]:
        exc = _try(path, whole[:length])
        assert exc is not None
        assert re.match(rf"{re.escape(str(path))}: damaged or cut short as a Parquet file", str(exc))


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_file_with_changed_bytes_is_read_or_refused(tmp_path: Path, compression: str) -> None:
    """Never another exception: half of the changes hit the table of contents, half anything."""
    rnd, path, whole = random.Random(20), tmp_path / "a.parquet", _sample(compression)
    contents = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    ends: Counter[bool] = Counter()
    for attempt in range(120):
        damaged = bytearray(whole)
        for _ in range(rnd.randint(1, 4)):
            damaged[rnd.randrange(4 if attempt % 2 else contents, len(whole))] = rnd.randrange(256)
        exc = _try(path, bytes(damaged))
        assert exc is None or str(path) in str(exc)
        assert "reading failed" not in str(exc)  # the disk is not to blame
        ends[exc is None] += 1
    assert set(ends) == {True, False}


def test_a_dictionary_that_lacks_an_index_is_refused(tmp_path: Path) -> None:
    """A damaged index is never read as another token, nor as nothing."""
    out, seen = io.BytesIO(), set()
    pq.write_table(pa.table({"AllowSms": ["1"] * 16 + ["0"] * 16, "Client": range(1, 33)}), out, compression="none")
    whole = out.getvalue()
    for place in range(4, 120):
        damaged = bytearray(whole)
        damaged[place] ^= 0x14
        seen.add(str(_try(tmp_path / "a.parquet", bytes(damaged))))
    assert any("beyond its dictionary" in one for one in seen)


def test_a_file_that_vanishes_is_told_in_the_systems_words(tmp_path: Path) -> None:
    """It is not called damaged."""
    path = _written(tmp_path, _table(pa.array([1]), pa.array([True])))
    source = sources.find(str(path), "auto")[0]
    path.unlink()
    with pytest.raises(ExportError, match="no such file"):
        parquet.header(source)


def test_ids_are_32_bits_wide_whatever_the_file_holds(tmp_path: Path) -> None:
    """A byte for each of two thousand million ids is what the tables rest on."""
    (block,) = _blocks(_written(tmp_path, _table(pa.array([1, 2**31 - 1]), pa.array([True, None]))))
    assert block.ids.dtype == np.int32
    assert block.values.dtype == np.uint8


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_file_is_told(tmp_path: Path, plaintext_footer: bool) -> None:
    """By its first bytes, or by the columns that cannot be read."""
    import pyarrow.parquet.encryption as pe

    class Keys(pe.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return key_bytes

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            return wrapped_key

    config = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["AllowSms"]}, plaintext_footer=plaintext_footer, double_wrapping=False
    )
    properties = pe.CryptoFactory(lambda _: Keys()).file_encryption_properties(pe.KmsConnectionConfig(), config)
    path = _written(tmp_path, _table(pa.array([1]), pa.array([True])), encryption_properties=properties)
    with pytest.raises(ExportError, match=r"a\.parquet: an encrypted Parquet file. Export it without encryption"):
        _blocks(path)


def test_columns_that_are_not_mapped_are_not_read(tmp_path: Path) -> None:
    """A damaged page of another column does not matter, nor does its size."""
    names = pa.array([f"{number:0100d}" for number in range(2000)])
    table = _table(pa.array(range(1, 2001)), pa.array([True] * 2000), zzz=names)
    path = _written(tmp_path, table, compression="none", use_dictionary=False)
    whole = path.read_bytes()
    at = whole.index(b"0" * 90)
    path.write_bytes(whole[: at - 60] + b"\xff" * 40 + whole[at - 20 :])  # the page's header
    assert len(_good(_blocks(path))) == 2000
