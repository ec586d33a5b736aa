import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sync_job.consent.channels import FIELDS, pack
from sync_job.errors import StorageError
from sync_job.report import lists


def _rejects(first: int, count: int, **more: str) -> pa.Table:
    numbers = range(first, first + count)
    columns = {
        "Client": [f"x{number}" for number in numbers],
        **{name: [value] * count for name, value in more.items()},
        "reject_file": ["export.csv"] * count,
        "reject_line": pa.array(list(numbers), pa.int64()),
        "reject_reasons": ["Client: no number"] * count,
        "reject_raw": [f'x{number},"a\nb",1' for number in numbers],
    }
    return pa.table(columns)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rejects_are_kept_with_their_own_columns(tmp_path: Path) -> None:
    """As they were read, with file, line and reason; nobody else may read them."""
    path = tmp_path / "reports" / "0002-x" / "rejects.csv"
    rejects = lists.RejectsFile(path)
    rejects.write(_rejects(1, 2, Name='Анна, "А"'))
    rejects.write(_rejects(3, 1, Other="z"))  # of a second file: its own columns are in the raw text alone
    rejects.close()
    rows = _read(path)
    assert list(rows[0]) == ["Client", "Name", "reject_file", "reject_line", "reject_reasons", "reject_raw"]
    assert [row["Client"] for row in rows] == ["x1", "x2", "x3"]
    assert [row["reject_line"] for row in rows] == ["1", "2", "3"]
    assert [row["Name"] for row in rows] == ['Анна, "А"', 'Анна, "А"', ""]
    assert rows[2]["reject_raw"] == 'x3,"a\nb",1'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(set(rejects.keys)) == 3


def test_rejects_have_keys_by_which_they_are_known_again(tmp_path: Path) -> None:
    """The same raw text has the same key in another file and line; no key shows it."""
    first, second = lists.RejectsFile(tmp_path / "a.csv"), lists.RejectsFile(tmp_path / "b.csv")
    first.write(_rejects(1, 3))
    second.write(_rejects(2, 2))
    assert set(second.keys) < set(first.keys)
    assert all(kind == "reject" and "x" not in key for kind, key in first.keys)
    first.close()
    second.close()


def test_no_rejects_make_no_file(tmp_path: Path) -> None:
    """Nor does an empty list of clients."""
    lists.RejectsFile(tmp_path / "rejects.csv").close()
    lists.write_clients(tmp_path / "absent.csv", np.zeros(0, np.int32))
    lists.write_flags(tmp_path / "duplicates.csv", np.zeros(0, np.int32), np.zeros(0, np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_absent_clients_are_listed(tmp_path: Path) -> None:
    """One column, in the order given."""
    path = tmp_path / "absent.csv"
    lists.write_clients(path, np.array([3, 2**31 - 1], np.int32))
    assert _read(path) == [{"Client": "3"}, {"Client": str(2**31 - 1)}]
    assert path.stat().st_mode & 0o777 == 0o600


def test_disagreeing_clients_are_listed_in_the_columns_of_exports(tmp_path: Path) -> None:
    """What is stated of each: true, false, or nothing."""
    path = tmp_path / "duplicates.csv"
    lists.write_flags(path, np.array([3, 4], np.int32), np.array([pack([2, 1, 0, 3]), 0], np.uint8))
    assert _read(path) == [
        {"Client": "3"} | dict(zip(FIELDS, ("true", "false", "", ""), strict=True)),
        {"Client": "4"} | dict.fromkeys(FIELDS, ""),
    ]
    assert pd.read_csv(path)["AllowSms"].tolist()[0] in (True, "True")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """The error names the file and what to do."""
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(StorageError, match=r"reports/x/absent\.csv: .*Make room there or mend the mode"):
        lists.write_clients(tmp_path / "reports" / "x" / "absent.csv", np.array([1], np.int32))


def test_a_full_disk_is_told() -> None:
    """By a device that is always full."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match=r"/dev/full"), lists._storing(full):
        full.write_text("x")
