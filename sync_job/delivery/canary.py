"""The canaries of an export's plan: which rows go first, one at a time, and what it means if all are refused. Pure."""

import numpy as np
import numpy.typing as npt

from sync_job.config import EndpointSettings
from sync_job.consent.channels import Bytes, Mask
from sync_job.consent.rows import Lane

_CAUSES = {
    400: "[endpoint] format, token or operator, if the platform does not read what they make",
    404: "[endpoint] base_url: there is no such address on that server",
    405: "[endpoint] base_url: that address takes no POST",
    406: "[endpoint] format: the platform does not answer in it",
    413: "a proxy in between that takes no request so large",
    415: "[endpoint] format: the platform does not read it",
    422: "[endpoint] format, token or operator, if the platform does not read what they make",
}


def drawn(lane: Bytes, refused: Mask, count: int, most: int) -> npt.NDArray[np.intp]:
    """Return the places of a plan's rows in sending order, with *count* canaries behind what is owed and withdrawn.

    *lane* is that of each row, and *refused* marks clients whose last row was refused. Only the first *most* rows may
    be drawn from. Canaries are spread over the plan, so that no run of bad rows can be all of them; rows that were
    refused before come last, so that the same ones do not stop run after run. No grant goes before a denial for it,
    unless there are too few denials.
    """
    places = np.arange(len(lane))
    owed = places[lane <= Lane.WITHDRAWAL]
    ours = places[(lane > Lane.WITHDRAWAL) & (places < most)]
    chosen: list[npt.NDArray[np.intp]] = []
    left = count
    for grants in (False, True):
        for again in (False, True):
            among = ours[((lane[ours] == Lane.GRANT) == grants) & (refused[ours] == again)]
            chosen.append(_spread(among, left))
            left -= len(chosen[-1])
    first = np.concatenate([owed, *chosen])
    return np.concatenate([first, np.setdiff1d(places, first, assume_unique=True)])


def _spread(places: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """Return *count* of *places* at equal distances, or all of them if there are no more."""
    if len(places) <= count:
        return places
    return places[np.arange(count) * len(places) // max(count, 1)]


def likely_cause(status: int | None, code: int | None, message: str, settings: EndpointSettings) -> str:
    """Return what was answered to all of the first rows, and which setting is the likely cause."""
    if code is None:
        return f"HTTP {status}: the likely cause is {_CAUSES.get(status or 0, 'base_url, or a proxy in between')}"
    said = f"ErrorCode {code}{f' ({message})' if message else ''}"
    if code in settings.not_found_codes:
        return (
            f"{said}, which means no such client: the likely cause is that [export.columns] Client names a column with "
            "other ids"
        )
    return (
        f"{said}: the likely cause is [endpoint] operator, site_code or its token; or, if that is how the platform "
        "says that it does not know a client, a wrong column in [export.columns] Client"
    )
