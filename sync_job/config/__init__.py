"""Typed, frozen settings: flags over environment over file over defaults; secrets from the environment alone.

One section a consumer, which gets its own section and no more. `docs/configuration.md` describes every key.
"""

from sync_job.config.loading import load, load_without_secrets
from sync_job.config.sections import (
    AuthSettings,
    BlankSettings,
    ColumnSettings,
    DeliverySettings,
    EndpointSettings,
    ExportSettings,
    GuardSettings,
    ReportSettings,
    RunSettings,
    Settings,
    StateSettings,
    TlsSettings,
    ValueSettings,
    WithdrawalSettings,
    section_of,
)
from sync_job.config.values import PREFIX, clock_time, duration_s, is_loopback, is_path, name_pattern

__all__ = [
    "PREFIX",
    "AuthSettings",
    "BlankSettings",
    "ColumnSettings",
    "DeliverySettings",
    "EndpointSettings",
    "ExportSettings",
    "GuardSettings",
    "ReportSettings",
    "RunSettings",
    "Settings",
    "StateSettings",
    "TlsSettings",
    "ValueSettings",
    "WithdrawalSettings",
    "clock_time",
    "duration_s",
    "is_loopback",
    "is_path",
    "load",
    "load_without_secrets",
    "name_pattern",
    "section_of",
]
