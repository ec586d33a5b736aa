"""Writes the corpus: one small table in every dialect and format that exports have. `python -m tests.corpus.build`.

The files are kept, so that a failure that was found in one can be found again. It needs the command `zstd`, for a frame
with a checksum.
"""

import gzip
import io
import json
import subprocess
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sync_job.consent.channels import FIELDS
from tests import workbooks
from tests.workbooks import sheet

HERE = Path(__file__).parent
HEADER = ("Client", *FIELDS, "Note")
YES, NO, BLANK = "true", "false", ""
# Ids of several lengths, a client with two rows, quotes, newlines and letters beyond ASCII.
TABLE: list[tuple[str, ...]] = [
    ("1204", YES, NO, BLANK, YES, "Ёлкина"),
    ("1205", NO, NO, YES, NO, 'a "quoted" one'),
    ("77", BLANK, YES, YES, NO, "two\nlines"),
    ("2147483647", YES, YES, NO, BLANK, ""),
    ("1205", NO, NO, YES, NO, 'a "quoted" one'),
    ("350017", NO, BLANK, NO, YES, "Щукин, Пётр"),
    ("90", YES, YES, YES, YES, "-"),
]
_RUSSIAN = {YES: "Да", NO: "Нет", BLANK: ""}


def _text(delimiter: str = ",", newline: str = "\n", words: dict[str, str] | None = None) -> str:
    rows = [list(HEADER), *([row[0], *((words or {}).get(cell, cell) for cell in row[1:5]), row[5]] for row in TABLE)]
    return "".join(delimiter.join(_quoted(cell, delimiter) for cell in row) + newline for row in rows)


def _quoted(cell: str, delimiter: str) -> str:
    if any(mark in cell for mark in (delimiter, '"', "\n")):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _zip(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("export.csv", content)
    return out.getvalue()


def _zstd(content: bytes) -> bytes:
    return subprocess.run(
        ["zstd", "--quiet", "--check", "--stdout"],  # noqa: S607
        input=content,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout


def _parquet(as_text: bool, compression: str) -> bytes:
    columns: dict[str, pa.Array] = {"Client": pa.array([int(row[0]) for row in TABLE], pa.int32())}
    for place, name in enumerate(FIELDS, 1):
        cells = [row[place] for row in TABLE]
        said = {YES: True, NO: False, BLANK: None}
        columns[name] = pa.array(cells) if as_text else pa.array([said[cell] for cell in cells])
    columns["Note"] = pa.array([row[5] for row in TABLE])
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression=compression, write_page_checksum=True, store_schema=False)
    return out.getvalue()


def _lines() -> bytes:
    said = {YES: True, NO: False, BLANK: None}
    rows = [
        {"Client": int(row[0])} | dict(zip(FIELDS, map(said.get, row[1:5]), strict=True)) | {"Note": row[5]}
        for row in TABLE
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def files() -> dict[str, bytes]:
    """Return the corpus by name, but for the workbook."""
    plain, russian = _text().encode(), _text(";", "\r\n", _RUSSIAN)
    return {
        "comma-utf8.csv": plain,
        "comma-utf8-mark.csv": "\ufeff".encode() + plain,
        "semicolon-cp1251.csv": russian.encode("cp1251"),
        "semicolon-sep-line.csv": b"sep=;\r\n" + russian.encode(),
        "tab-utf16.csv": ("\ufeff" + _text("\t", "\r\n")).encode("utf-16-le"),
        "pipe-cr.csv": _text("|", "\r").encode(),
        "comma.csv.gz": gzip.compress(plain, mtime=0),
        "comma.csv.zst": _zstd(plain),
        "comma.csv.zip": _zip(plain),
        "flags.parquet": _parquet(False, "none"),
        "texts.parquet": _parquet(True, "snappy"),
        "lines.jsonl": _lines(),
        "lines.jsonl.gz": gzip.compress(_lines(), mtime=0),
    }


def main() -> None:
    """Write all of it beside this file."""
    for name, content in files().items():
        (HERE / name).write_bytes(content)
    said = {YES: True, NO: False, BLANK: None}
    rows = [(int(row[0]), *(said[cell] for cell in row[1:5]), row[5]) for row in TABLE]
    workbooks.write(HERE / "book.xlsx", {"People": sheet(HEADER, *rows)})


if __name__ == "__main__":
    main()
