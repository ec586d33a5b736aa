"""`forget`: erases clients, after what is owed to them was delivered."""

import time
from collections.abc import Sequence

import numpy as np

from sync_job.config import Settings
from sync_job.consent.channels import Ids
from sync_job.delivery import tls
from sync_job.errors import ConfigError, Exit
from sync_job.exports import lists
from sync_job.report.counts import Summary
from sync_job.runs import anchoring, erasure, legs, night
from sync_job.runs.decide import Wish
from sync_job.runs.recover import holding
from sync_job.runs.report import Stopwatch
from sync_job.runs.watch import Watch


def clients(settings: Settings, given: Sequence[int], path: str | None, *, sheet: str = "", contacts: str = "") -> Ids:
    """Return the clients that were named, one by one or in a list of ids, ascending.

    With the lookup *contacts* it is a list of addresses or numbers, each of one client: nobody is erased in doubt.

    Raises:
        ConfigError: when none was, or both ways were used.
        ExportError: when the list cannot be read.
    """
    if bool(given) == (path is not None):
        raise ConfigError("forget: name clients with --client, or a LIST of them; one of the two.")
    if path is None:
        return np.unique(np.array(list(given), np.int32))
    now = time.time()
    found = lists.read_withdrawals(
        path,
        settings,
        received_at=now,
        scope="all",
        basis="erasure",
        sheet=sheet,
        contacts=contacts,
        several=False,
        now=now,
    )
    if found.rejected:
        raise ConfigError(
            f"{path}: {found.rejected:,} rows cannot be read ({', '.join(found.reasons)}). Who is to be erased must be "
            "known for sure: mend the list. Nobody was erased."
        )
    return np.unique(found.table.column("client").to_numpy())


def forget(settings: Settings, ids: Ids, request_ref: str, watch: Watch) -> Summary:
    """Deliver what is owed to these clients, then erase them; those still owed something are erased by a later run.

    Raises:
        StateError, BusyError: when there is no state, or another run holds it.
    """
    tls.context(settings.endpoint)
    watch.stage("erasing")
    with holding(settings) as state:
        known = np.isin(ids, state.holdings().client) | np.isin(ids, state.ledger.withdrawals.clients())
        denied = erasure.ask(state, settings, ids, request_ref)
        exit_code = Exit.OK
        if len(legs.owed_now(state, time.time())):
            findings = night.begin(state, settings, "forget", watch)
            try:
                legs.Legs(state, settings, findings, watch, Wish()).owed()
                exit_code = night.conclude(state, settings, findings, watch, Stopwatch()).exit_code
            finally:
                watch.end()
        erasure.complete(state, settings)
        anchoring.keep(state, settings)
        waiting = int(np.count_nonzero(np.isin(state.ledger.forgetting.asked(), ids)))
        unknown = int(np.count_nonzero(~known))
        return erasure.result(len(ids) - waiting, waiting, unknown, denied, exit_code, settings.endpoint.target)
