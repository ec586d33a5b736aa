"""consent-sync keeps the consent that a loyalty platform holds equal to the consent that the CRM exports.

The Python interface: `load_settings` and `run` do what `consent-sync run` does; `read_export`, `read_snapshot` and
`read_results` return what the files hold as pandas tables.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from sync_job.config import ColumnSettings, Settings
    from sync_job.runs.report import Report

__all__ = ["load_settings", "read_export", "read_results", "read_snapshot", "run"]

# pyarrow, pandas and aiohttp take most of a second to import: each function brings what it needs.


def load_settings(path: str | PathLike[str]) -> Settings:
    """Return the settings in the file *path* and the environment.

    Raises:
        ConfigError: naming each wrong key.
    """
    from pathlib import Path

    from sync_job import config

    return config.load(Path(path))


def read_export(
    path: str | PathLike[str], columns: ColumnSettings | None = None, *, timezone: str = "UTC"
) -> pd.DataFrame:
    """Return what an export states: one row a client, by ascending id.

    Columns: Client (Int32), AllowSms, AllowEmail, AllowPush, AllowEmailOnlineCheque (nullable boolean; missing where
    nothing is stated). Several rows of one client are merged, and rejected rows left out but for their explicit
    denials, as in a run. *columns* are the export's names of them, by default the platform's own.

    Raises:
        ExportError: when it cannot be read.
    """
    from zoneinfo import ZoneInfo

    from sync_job.config import ExportSettings
    from sync_job.exports import loader
    from sync_job.report import lists

    settings = ExportSettings(as_of="none")
    if columns is not None:
        settings = settings.model_copy(update={"columns": columns})
    found = loader.load(settings, ZoneInfo(timezone), where=str(path), first_look=True)
    return _frame(lists.flag_table(*found.statements.items()))


def read_snapshot(path: str | PathLike[str]) -> pd.DataFrame:
    """Return a snapshot file (`state/snapshots/N.parquet`): one row a client, by ascending id.

    Columns: Client (Int32), the four flags as last acknowledged (nullable boolean), and what is due of each
    (`due_AllowSms` and so on, nullable boolean).

    Raises:
        StateDamagedError: when the file is not what was written.
    """
    from pathlib import Path

    from sync_job.ledger import tables
    from sync_job.report import lists

    found = tables.read_snapshot(Path(path))
    held = _frame(lists.flag_table(found.client, found.state))
    due = _frame(lists.flag_table(found.client, found.due)).drop(columns="Client")
    return held.join(due.add_prefix("due_"))


def read_results(path: str | PathLike[str]) -> pd.DataFrame:
    """Return a results file (`reports/RUN/results.csv` or `.parquet`), or that in a report's folder, as a table.

    One row a planned client and leg; `docs/operating.md` describes the columns. Times are in UTC.

    Raises:
        FileNotFoundError: when there is none.
    """
    from pathlib import Path

    import pyarrow.csv
    import pyarrow.parquet as pq

    from sync_job.report.results import SCHEMA

    place = Path(path)
    if place.is_dir():
        place = next((one for one in sorted(place.glob("results.*"))), place / "results.csv")
    if place.suffix == ".parquet":
        return _frame(pq.read_table(place))
    convert = pyarrow.csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=False)
    return _frame(pyarrow.csv.read_csv(place, convert_options=convert))


def run(settings: Settings, *, restrict_only: bool = False, limit: int | None = None) -> Report:
    """Do what `consent-sync run` does, and return the report: `.summary` has all counts, `.folder` the files.

    Raises:
        ConsentSyncError: what ended the run; `.exit_code` is what the command would have ended with.
    """
    import structlog

    from sync_job.runs import logs, night, telling
    from sync_job.runs.decide import Wish
    from sync_job.runs.watch import Watch

    if not structlog.is_configured():
        logs.configure("console", "warning")
    with telling.how_it_ends(settings, "run"):
        return night.run(settings, Wish(restrict_only=restrict_only, limit=limit), Watch())


def _frame(table: object) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    assert isinstance(table, pa.Table)  # noqa: S101 - every reader above returns one
    kinds = {
        pa.bool_(): pd.BooleanDtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
    }
    frame: pd.DataFrame = table.to_pandas(types_mapper=kinds.get)
    return frame
