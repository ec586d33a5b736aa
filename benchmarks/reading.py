"""What reading an export costs beside pyarrow's own parallel reader of the same file: time, and memory at most.

`python -m benchmarks.reading [ROWS] [KINDS…]`: ten million rows by default, of every kind. Both read each file in turn,
each time in a process of its own, imports aside; a line has the medians and their ratio. `--profile KIND` shows where
one reading spends its time.

The other side does less: it parses all columns of a plain file in one encoding, and knows neither clients nor rejects.
Where a file has bad rows or text, it reads ids as text; what it cannot read at all is unpacked or decoded for it first,
as anybody would do.
"""

import argparse
import cProfile
import io
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from sync_job.config import ExportSettings
from sync_job.exports import loader

MILLION = 1_000_000
ROUNDS = 5
_CHUNK_BYTES = 16 << 20
_COLUMNS = ("Client", "AllowSms", "AllowEmail", "AllowPush", "AllowEmailOnlineCheque", "City")
_CITIES = ("Omsk", "Perm", "Tver", "Kazan")
_CYRILLIC = ("Омск", "Пермь", "Тверь", "Казань")


def _rows(rows: int, *, dirty: bool, cities: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a table in pieces; of a dirty one a row in a hundred is bad, and one is there twice."""
    random = np.random.default_rng(7)
    for start in range(0, rows, MILLION):
        count = min(MILLION, rows - start)
        ids = np.arange(1001 + start, 1001 + start + count)
        texts = ids.astype(str)
        if dirty:
            again = random.random(count) < 0.01
            texts[1:][again[1:]] = texts[:-1][again[1:]]
            bad = random.random(count) < 0.01
            texts = np.where(bad, np.char.add("x", texts), texts)
        said = random.choice(np.array(["true", "false", ""]), (count, 4), p=(0.6, 0.35, 0.05))
        where = random.choice(np.array(cities), count)
        yield "".join(
            f"{id_},{a},{b},{c},{d},{city}\n"
            for id_, (a, b, c, d), city in zip(texts.tolist(), said.tolist(), where.tolist(), strict=True)
        )


def _text(
    path: Path, rows: int, *, dirty: bool = False, code: str = "utf-8", cities: tuple[str, ...] = _CITIES
) -> None:
    with path.open("w", encoding=code, newline="") as file:
        file.write(",".join(_COLUMNS) + "\n")
        for piece in _rows(rows, dirty=dirty, cities=cities):
            file.write(piece)


def _packed(path: Path, rows: int, codec: str) -> None:
    plain = path.with_suffix(".plain")
    _text(plain, rows)
    with plain.open("rb") as file, pa.CompressedOutputStream(str(path), codec) as out:
        while piece := file.read(_CHUNK_BYTES):
            out.write(piece)
    plain.unlink()


def _parquet(path: Path, rows: int) -> None:
    plain = path.with_suffix(".plain")
    _text(plain, rows)
    kinds = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS[1:5], pa.bool_()))
    pq.write_table(pyarrow.csv.read_csv(str(plain), convert_options=kinds), path)
    plain.unlink()


WRITE: dict[str, Callable[[Path, int], None]] = {
    "clean": _text,
    "dirty": lambda path, rows: _text(path, rows, dirty=True),
    "utf-8": lambda path, rows: _text(path, rows, cities=_CYRILLIC),
    "cp1251": lambda path, rows: _text(path, rows, code="cp1251", cities=_CYRILLIC),
    "utf-16": lambda path, rows: _text(path, rows, code="utf-16", cities=_CYRILLIC),
    "gzip": lambda path, rows: _packed(path, rows, "gzip"),
    "zstd": lambda path, rows: _packed(path, rows, "zstd"),
    "parquet": _parquet,
}


def ours(path: Path, kind: str) -> int:
    """Read the file into its table of statements, and return its rows."""
    return loader.load(ExportSettings(as_of="none"), ZoneInfo("UTC"), where=str(path), first_look=True).rows


def theirs(path: Path, kind: str) -> int:
    """Read the file with pyarrow alone, with as many threads as it takes, and return its rows."""
    if kind == "parquet":
        return int(pq.read_table(path, columns=list(_COLUMNS[:5])).num_rows)
    kinds = dict.fromkeys(_COLUMNS[1:], pa.string()) | {"Client": pa.string() if kind == "dirty" else pa.int64()}
    convert = pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=list(_COLUMNS[:5]))
    # read_csv decodes other encodings itself, and unpacks by a file's ending.
    with pa.input_stream(str(path), compression=kind if kind in ("gzip", "zstd") else None) as file:
        read = pyarrow.csv.ReadOptions(encoding=kind if kind in ("cp1251", "utf-16") else "utf8")
        return int(pyarrow.csv.read_csv(file, read, convert_options=convert).num_rows)


def one(path: Path, kind: str, who: str) -> None:
    """Print how long one reading took in this process, and its memory at most; a small one goes before it.

    With that one everything is imported: pyarrow brings pandas itself, when it first makes an array.
    """
    read = ours if who == "ours" else theirs
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "export"
        WRITE[kind](small, 100)
        read(small, kind)
    begin = time.perf_counter()
    rows = read(path, kind)
    seconds = time.perf_counter() - begin
    most = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000
    sys.stdout.write(json.dumps({"seconds": seconds, "megabytes": most, "rows": rows}) + "\n")


def _measured(path: Path, kind: str, who: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.reading", "--one", str(path), kind, who]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603 - our own command
    found: dict[str, float] = json.loads(said)
    return found


def compare(path: Path, kind: str) -> str:
    """Return a line about both readings of a file, in turn so that a busy machine is busy for both."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(ROUNDS):
        for who, runs in found.items():
            runs.append(_measured(path, kind, who))
    middle = {who: statistics.median(run["seconds"] for run in runs) for who, runs in found.items()}
    most = {who: max(run["megabytes"] for run in runs) for who, runs in found.items()}
    ratio = middle["ours"] / middle["theirs"]
    return (
        f"{kind:<8} {path.stat().st_size / 1e6:>7,.0f} MB  {middle['ours']:>6.2f} s  {middle['theirs']:>6.2f} s  "
        f"{ratio:>5.2f}x  {most['ours']:>6,.0f} MB  {most['theirs']:>6,.0f} MB"
    )


def profile(path: Path, kind: str) -> str:
    """Return where one reading spends its time, in the thread that reads and in those that parse, added up."""
    profilers = [cProfile.Profile()]

    def begin(*_: object) -> None:
        profilers.append(cProfile.Profile())
        profilers[-1].enable()

    threading.setprofile(begin)
    profilers[0].runcall(ours, path, kind)
    threading.setprofile(None)
    out = io.StringIO()
    found = pstats.Stats(profilers[0], stream=out)
    for one_ in profilers[1:]:
        found.add(one_)
    found.sort_stats("tottime").print_stats(25)
    return out.getvalue()


def main() -> None:
    """Make each file, read it in turn, and print a line."""
    if sys.argv[1:2] == ["--one"]:
        one(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
        return
    arguments = argparse.ArgumentParser()
    arguments.add_argument("rows", nargs="?", type=int, default=10 * MILLION)
    arguments.add_argument("kinds", nargs="*", default=list(WRITE))
    arguments.add_argument("--profile", choices=list(WRITE))
    said = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export"
        if said.profile:
            WRITE[said.profile](path, said.rows)
            sys.stdout.write(profile(path, said.profile))
            return
        sys.stdout.write(f"{said.rows:,} rows, medians of {ROUNDS}: here, pyarrow, their ratio; memory here, pyarrow\n")
        for kind in said.kinds:
            WRITE[kind](path, said.rows)
            sys.stdout.write(f"{compare(path, kind)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
