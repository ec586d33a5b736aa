"""Typed, frozen settings: flags over environment over file over defaults; secrets from the environment alone.

One section a consumer, which gets its own section and no more. `docs/configuration.md` describes every key.
"""

from sync_job.config.loading import load
from sync_job.config.sections import (
    AuthSettings,
    ColumnSettings,
    DeliverySettings,
    EndpointSettings,
    ExportSettings,
    ReportSettings,
    RunSettings,
    Settings,
    StateSettings,
    TlsSettings,
    section_of,
)
from sync_job.config.values import PREFIX, clock_time

__all__ = [
    "PREFIX",
    "AuthSettings",
    "ColumnSettings",
    "DeliverySettings",
    "EndpointSettings",
    "ExportSettings",
    "ReportSettings",
    "RunSettings",
    "Settings",
    "StateSettings",
    "TlsSettings",
    "clock_time",
    "load",
    "section_of",
]
