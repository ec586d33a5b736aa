import dataclasses
import errno
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from sync_job.consent.channels import parse_letters
from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Outcome
from sync_job.consent.rows import Lane, Rows
from sync_job.errors import StorageError
from sync_job.ledger.journal import Part
from sync_job.report import results

FORMATS: tuple[Literal["csv", "parquet"], ...] = ("csv", "parquet")
formats = pytest.mark.parametrize("format_", FORMATS)


def _bytes(*values: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(values, np.uint8)


ROWS = Rows(
    np.array([7, 2**31 - 1], np.int32),
    _bytes(parse_letters("TF--"), 0),
    _bytes(parse_letters("--F-"), 0),
    _bytes(parse_letters("FFF-"), parse_letters("---T")),
    _bytes(Lane.REVOCATION, Lane.GRANT),
)
ENDED = Part(
    start=0,
    outcome=_bytes(Outcome.REFUSED, Outcome.DEFERRED),
    denials=_bytes(Outcome.DELIVERED, Outcome.OPEN),
    doubt=_bytes(DOUBT_WHOLE | DOUBT_DENIALS, 0),
    doubt_at=np.array([3.0, 0.0]),
    attempts=np.array([3, 0]),
    status=np.array([200, None], np.object_),
    code=np.array([8, None], np.object_),
    message=np.array(['Участник, "не" найден\n', None], np.object_),
    first_sent=np.array([1700000000.123, np.nan]),
    settled=np.array([1700000001.5, np.nan]),
)
SHOWN = [
    {
        "Client": 7,
        "leg": 1,
        "lane": "revocation",
        "state": "TF--",
        "due": "--F-",
        "sent": "FFF-",
        "changed": "Sms Push",
        "restated": "Email",
        "outcome": "refused",
        "denials": "delivered",
        "doubt": "whole denials",
        "attempts": 3,
        "status": 200,
        "code": 8,
        "message": 'Участник, "не" найден\n',
        "first_sent": pd.Timestamp("2023-11-14T22:13:20.123Z"),
        "settled": pd.Timestamp("2023-11-14T22:13:21.500Z"),
    },
    {
        "Client": 2**31 - 1,
        "leg": 1,
        "lane": "grant",
        "state": "----",
        "due": "----",
        "sent": "---T",
        "changed": "EmailOnlineCheque",
        "restated": "",
        "outcome": "deferred",
        "denials": "",
        "doubt": "",
        "attempts": 0,
        "status": None,
        "code": None,
        "message": "",
        "first_sent": None,
        "settled": None,
    },
]


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        texts = {name: "string" for name, value in SHOWN[0].items() if isinstance(value, str)}
        table = pd.read_csv(path, dtype=texts, parse_dates=["first_sent", "settled"])
        table[list(texts)] = table[list(texts)].fillna("")
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


@formats
def test_results_are_read_back_with_all_columns(tmp_path: Path, format_: Literal["csv", "parquet"]) -> None:
    """Every column of every leg, with times, letters and messages as they were."""
    with results.writing(tmp_path, format_) as out:
        out.write(1, ROWS, ENDED)
        out.write(2, ROWS, ENDED)
    path = tmp_path / f"results.{format_}"
    assert _read(path) == [*SHOWN, *(row | {"leg": 2} for row in SHOWN)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@formats
def test_a_run_without_rows_has_results_too(tmp_path: Path, format_: Literal["csv", "parquet"]) -> None:
    """A file with the columns and nothing else."""
    with results.writing(tmp_path, format_):
        pass
    path = tmp_path / f"results.{format_}"
    table = pd.read_csv(path) if format_ == "csv" else pd.read_parquet(path)
    assert list(table.columns) == list(SHOWN[0])
    assert len(table) == 0


@formats
def test_results_appear_whole_or_not_at_all(tmp_path: Path, format_: Literal["csv", "parquet"]) -> None:
    """What breaks off leaves the results of before."""
    path = tmp_path / f"results.{format_}"
    path.write_text("of before")
    cut = dataclasses.replace(ENDED, status=ENDED.status[:1])
    with pytest.raises(ValueError, match="length"), results.writing(tmp_path, format_) as out:
        out.write(1, ROWS, cut)
    assert path.read_text() == "of before"


@formats
def test_a_disk_that_refuses_is_told(tmp_path: Path, format_: Literal["csv", "parquet"]) -> None:
    """The error names the file and says who will write it."""
    with (
        pytest.raises(StorageError, match=rf"results\.{format_}: No space left.*the next run writes the report"),
        results.writing(tmp_path, format_),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
