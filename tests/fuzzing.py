"""Damages the corpus in every way, and holds what is read of it to three laws.

Damaged bytes are read, or refused with an `ExportError`: never a traceback. They never take more than a moment; whoever
starts this watches the clock. And they never grant what the sound file does not: where a checksum protects the content,
and where the end of a file is lost, no *allowed* is read of a client and channel that no row of the sound file allows.
Elsewhere a damage may make another good row (`1` into `7`): there every *allowed* must stand, in so many words, in the
damaged text as Python's own reader reads it.

`make fuzz` plays CONSENT_SYNC_FUZZ mutations by CONSENT_SYNC_FUZZ_SEED, and every truncation; a failure is printed with
the seed of its case, of which `mutation` makes the same bytes again.
"""

import csv
import io
import json
import os
import queue
import random
import resource
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa

from sync_job.config import ExportSettings
from sync_job.consent import tokens
from sync_job.consent.channels import ALLOWED, FIELDS, SHIFTS
from sync_job.errors import ConfigError, ExportError
from sync_job.exports import loader
from sync_job.exports.loader import Export
from tests.corpus.build import TABLE, YES

CORPUS = Path(__file__).parent / "corpus"
SETTINGS = ExportSettings(as_of="none")
HELD = {(int(row[0]), name) for row in TABLE for name, cell in zip(FIELDS, row[1:5], strict=True) if cell == YES}
PROTECTED = (".gz", ".zst", ".zip", ".parquet", ".xlsx")  # a checksum of their content, or of its pages
_EVERYWHERE = "semicolon-cp1251.csv"  # is cut, however few cases are asked for
_PATIENCE_S = 60.0
_LARGE = 6 << 30  # more than any of these files may ever need
_STARTS = (b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1", b"\xff\xfe", b'{"', b"Client,", b"sep=;\n")
Grants = set[tuple[int, str]]


def corpus() -> dict[str, bytes]:
    """Return the sound files by name."""
    return {path.name: path.read_bytes() for path in sorted(CORPUS.iterdir()) if path.suffix not in (".py", "")}


def granted(export: Export) -> Grants:
    """Return what an export may grant: its *allowed*, but for clients with a rejected row."""
    ids, values = export.statements.items()
    return {
        (client, name)
        for client, value in zip(ids.tolist(), values.tolist(), strict=True)
        for name, shift in zip(FIELDS, SHIFTS, strict=True)
        if (value >> shift) & 3 == ALLOWED and client not in export.ungranted
    }


def plainly(content: bytes, export: Export) -> Grants:
    """Return what text says *allowed* of as Python's own reader reads it, in the encoding that was found."""
    (read,) = export.inputs
    if read.compression == "zstd":
        content = pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()
    if read.format == "jsonl":
        rows = list(_objects(content))
    else:
        text = content.decode(read.encoding, "replace").removeprefix("\ufeff").replace("\0", "")
        found = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=read.delimiter) if row]
        header = next((row for row in found if len(row) > 1 and not row[0].lower().startswith("sep=")), [])
        rows = [dict(zip([read.renamed.get(name, name) for name in header], row, strict=False)) for row in found]
    grants: Grants = set()
    for row in rows:
        client = str(row.get("Client", "")).strip().removesuffix(".0").lstrip("0")
        for name in FIELDS:
            said = str(row.get(name, "")).strip().lower()
            if tokens.BUILT_IN.get(said) == ALLOWED and client.isdigit():
                grants.add((int(client), name))
    return grants


def _objects(content: bytes) -> Iterator[dict[str, object]]:
    for line in content.decode("utf-8", "replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield {name.strip(): value for name, value in found.items()}


def read(path: Path, content: bytes) -> Export | None:
    """Return what is read of these bytes; none where they are refused."""
    path.write_bytes(content)
    try:
        return loader.load(SETTINGS, ZoneInfo("UTC"), where=str(path), first_look=True)
    except (ExportError, ConfigError):
        return None


def judge(name: str, content: bytes, export: Export, *, only_cut: bool) -> str:
    """Return which grant of a damaged file nobody gave; "" for none."""
    grants = granted(export) - HELD
    if grants and not only_cut and not name.endswith(PROTECTED):
        grants -= plainly(content, export)
    return f"{name}: grants {sorted(grants)}" if grants else ""


def truncations(seldom: int = 1) -> Iterator[tuple[str, bytes]]:
    """Yield every file cut at one length in *seldom*, and one of them at every length."""
    for name, sound in corpus().items():
        for length in range(0, len(sound), 1 if name == _EVERYWHERE else seldom):
            yield name, sound[:length]


def mutation(seed: str) -> tuple[str, bytes]:
    """Return the name of a file and its content after the mutations that the seed says."""
    random_ = random.Random(seed)
    files = corpus()
    name = random_.choice(sorted(files))
    if random_.random() < 0.05:
        return "random.csv", random_.choice(_STARTS) + random_.randbytes(random_.choice((1, 10, 100, 1000)))
    content = bytearray(files[name])
    for _ in range(random_.choice((1, 1, 1, 1, 2, 5))):
        if content:
            random_.choice(_MUTATIONS)(content, random_)
    return name, bytes(content)


def _one_byte(content: bytearray, random_: random.Random) -> None:
    content[random_.randrange(len(content))] = random_.randrange(256)


def _one_bit(content: bytearray, random_: random.Random) -> None:
    content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)


def _one_mark(content: bytearray, random_: random.Random) -> None:
    content[random_.randrange(len(content))] = random_.choice(b'\0\r\n",;\t|\xff\xfe\xef')


def _more(content: bytearray, random_: random.Random) -> None:
    place = random_.randrange(len(content) + 1)
    content[place:place] = random_.randbytes(random_.choice((1, 2, 8)))


def _less(content: bytearray, random_: random.Random) -> None:
    place = random_.randrange(len(content))
    del content[place : place + random_.choice((1, 2, 8, 50))]


def _again(content: bytearray, random_: random.Random) -> None:
    place = random_.randrange(len(content))
    content[place:place] = content[place : place + random_.choice((8, 50))]


_MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    _one_byte,
    _one_byte,
    _one_bit,
    _one_mark,
    _more,
    _less,
    _again,
]


def cases(count: int, seed: str) -> Iterator[tuple[str, str, bytes, bool]]:
    """Yield so many mutations, and truncations as many as fit: name, file and content, and whether it is only cut."""
    for name, content in truncations(max(1, 10_000 // count)):
        yield f"{name} cut at {len(content)}", name, content, True
    for place in range(count):
        yield f"seed {seed}/{place}", *mutation(f"{seed}/{place}"), False


def play(count: int, seed: str) -> None:
    """Print each case before it is read, and behind it, after a `!`, how it broke a law."""
    resource.setrlimit(resource.RLIMIT_AS, (_LARGE, _LARGE))
    with tempfile.TemporaryDirectory() as folder:
        for case, name, content, only_cut in cases(count, seed):
            _say(case)
            try:
                export = read(Path(folder) / "export", content)
                broken = judge(name, content, export, only_cut=only_cut) if export else ""
            except Exception:  # noqa: BLE001 - any other one breaks the law
                broken = traceback.format_exc()
            if broken:
                _say("".join(f"! {line}\n" for line in [case, *broken.splitlines()]).rstrip())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def watch(count: int, seed: str) -> tuple[int, list[str]]:
    """Return how many cases were played in a child, and how they broke laws; one that takes too long ends it."""
    command = [sys.executable, "-m", "tests.fuzzing", "--play", str(count), seed]
    lines: queue.Queue[str | None] = queue.Queue()
    played, broken, last = 0, [], ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CORPUS.parent.parent) as child:

        def listen() -> None:
            for line in child.stdout or ():
                lines.put(line.rstrip("\n"))
            lines.put(None)

        threading.Thread(target=listen, daemon=True).start()
        try:
            while (line := lines.get(timeout=_PATIENCE_S)) is not None:
                if line.startswith("! "):
                    broken.append(line.removeprefix("! "))
                else:
                    played, last = played + 1, line
        except queue.Empty:
            child.kill()
            broken.append(f"{last}: hangs")
        if child.wait() and not broken:
            broken.append(f"{last}: the process died with {child.returncode}")
    return played, broken


def main(arguments: list[str]) -> int:
    """Play what is asked for, by default 20,000 mutations by a new seed; return the exit code."""
    if arguments[:1] == ["--play"]:
        play(int(arguments[1]), arguments[2])
        return 0
    count = int(os.environ.get("CONSENT_SYNC_FUZZ", "20000"))
    seed = os.environ.get("CONSENT_SYNC_FUZZ_SEED", "") or str(random.SystemRandom().randrange(10**6))
    played, broken = watch(count, seed)
    _say(
        "\n".join([*broken, f"{played:,} cases, seed {seed}: {'a law was broken' if broken else 'no law was broken'}"])
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
