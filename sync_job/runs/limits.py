"""Until when a denial is to be acknowledged, by the configuration."""

import numpy as np
import numpy.typing as npt

from sync_job.config import Settings
from sync_job.consent import deadlines

Times = npt.NDArray[np.float64]


def of(settings: Settings, started: Times) -> Times:
    """Return the limit of obligations that began at *started*, all in epoch seconds."""
    chosen = settings.withdrawals
    return deadlines.limits(started, limit_h=chosen.limit_h, profile=chosen.profile, zone=settings.run.zone)


def at(settings: Settings, started: float) -> float:
    """Return the limit of an obligation that began at *started*, both in epoch seconds."""
    return float(of(settings, np.array([started]))[0])
