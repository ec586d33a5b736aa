"""What a CRM exports: of whom, as of when, what is wrong with it, and how it is written to a file."""

import csv
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.expected import CHANNELS, Consent

FIELDS = tuple(f"Allow{name}" for name in CHANNELS)
ENDINGS = {"csv": ".csv", "semicolon": ".csv", "gzip": ".csv.gz", "parquet": ".parquet", "jsonl": ".jsonl"}
CELLS = {True: "true", False: "false", None: ""}


@dataclass(frozen=True)
class Export:
    """What the CRM exported: of whom, as of when, of which kind, and what is wrong with it."""

    says: dict[int, Consent]
    as_of: float
    kind: str
    missing: int | None = None  # the channel whose column is not there
    unreadable: dict[int, int] = field(default_factory=dict)  # a person, and the channel whose cell is not readable
    shrunken: bool = False

    def stated(self) -> dict[int, Consent]:
        """Return what can be read of it."""
        return {
            person: tuple(
                None if k == self.missing or self.unreadable.get(person) == k else flag for k, flag in enumerate(flags)
            )
            for person, flags in self.says.items()
        }


def content(says: Mapping[int, Consent]) -> str:
    """Return what tells the content of an export from another's."""
    return repr(sorted(says.items()))


def iso(seconds: float) -> str:
    """Return a time as exports and lists have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def written(path: Path, columns: dict[str, list[Any]], how: str) -> None:
    """Write a table in a format; what format it is, its content tells."""
    if how == "parquet":
        pq.write_table(pa.table({name: [str(cell) for cell in cells] for name, cells in columns.items()}), path)
        return
    rows = list(zip(*columns.values(), strict=True))
    if how == "jsonl":
        text = "".join(json.dumps(dict(zip(columns, map(str, row), strict=True))) + "\n" for row in rows)
    else:
        out = io.StringIO()
        writer = csv.writer(out, delimiter=";" if how == "semicolon" else ",", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        text = out.getvalue()
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if how == "gzip" else text.encode())
