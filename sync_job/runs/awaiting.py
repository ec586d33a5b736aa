"""Waits for an export that is not there yet, or not complete: before a run begins, and so while others may run."""

import time
from collections.abc import Callable

import structlog

from sync_job.config import Settings
from sync_job.errors import ExportIncompleteError
from sync_job.exports import complete, sources
from sync_job.runs.watch import Watch

_LOOK_S = 10.0
_log = structlog.get_logger()


def await_export(
    settings: Settings,
    wait_s: float,
    watch: Watch,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Return whether the export is there and complete, as far as can be told without reading it, within *wait_s*.

    Where it is not, whoever reads it then says what is wrong, as if nobody had waited.

    Raises:
        ExportError: what waiting does not mend.
    """
    began, export, said = clock(), settings.export, False
    while True:
        try:
            found = complete.ready(export.path, export, settings.run.zone, clock=clock, sleep=sleep)
            for place in found.places:
                sources.look(place, export.format)
        except ExportIncompleteError as exc:
            waited_s = clock() - began
            if waited_s >= wait_s:
                _log.warning("export.awaited_in_vain", seconds=round(waited_s), why=str(exc))
                return False
            if not said:
                _log.info("export.awaited", seconds=wait_s, why=str(exc))
                watch.stage("waiting for the export", int(wait_s))
                said = True
            watch.at(int(waited_s), int(wait_s), note=str(exc))
            sleep(min(_LOOK_S, wait_s - waited_s))
        else:
            return True
