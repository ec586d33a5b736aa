"""`forget`: erases clients, after every channel was denied and what is owed to them was delivered."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from sync_job.config import Settings
from sync_job.consent.channels import Ids
from sync_job.consent.guards import at_most
from sync_job.delivery import tls
from sync_job.errors import ConfigError, Exit
from sync_job.exports import lists
from sync_job.report.counts import Summary
from sync_job.runs import anchoring, erasure, foreseeing, legs, night
from sync_job.runs.decide import Wish
from sync_job.runs.recover import holding
from sync_job.runs.report import Stopwatch
from sync_job.runs.watch import Watch

_MOST_LISTED = 1  # An export is a list of ids too, and an erasure cannot be taken back.

# Is shown what an erasure would do; returns the number of clients that was typed, or None.
Confirm = Callable[[Summary], int | None]


def clients(settings: Settings, given: Sequence[int], path: str | None, *, sheet: str = "", contacts: str = "") -> Ids:
    """Return the clients that were named, one by one or in a list of ids, ascending.

    With the lookup *contacts* it is a list of addresses or numbers, each of one client: nobody is erased in doubt.

    Raises:
        ConfigError: none was named, or both ways were used.
        ExportError: the list cannot be read.
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
            "known for sure: fix the list. Nobody was erased."
        )
    return np.unique(found.table.column("client").to_numpy())


def check(settings: Settings, ids: Ids, *, listed: bool) -> Summary:
    """Return what it would do to erase these clients, in clients; nothing is sent or changed.

    *listed*: they come from a list, of which every number above one is to be confirmed. Clients who are named one by
    one are confirmed above the guard for lists.

    Raises:
        StateError: there is no state, or the codes of the erased cannot be read.
    """
    guards = settings.guards
    with foreseeing.opened(settings) as state:
        ledger = state.ledger
        known = state.knows(ids)
        before = erasure.tombstones(settings).of(ids) & ~known
        withdrawn = ledger.withdrawals.in_force().of(ids) != 0
        owed = np.isin(ids, ledger.obligations.owed(time.time()).client)
        asked = np.isin(ids, ledger.forgetting.asked())
        most = _MOST_LISTED if listed else at_most(guards.list, guards.list_share, ledger.clients())
    return {
        "target": settings.endpoint.target,
        "clients": len(ids),
        "known": int(np.count_nonzero(known)),
        "withdrawn": int(np.count_nonzero(withdrawn)),
        "owed": int(np.count_nonzero(owed)),
        "asked_before": int(np.count_nonzero(asked)),
        "erased_before": int(np.count_nonzero(before)),
        "unknown": int(np.count_nonzero(~known & ~before)),
        "to_deny": int(np.count_nonzero(~before)),
        "must_be_confirmed": len(ids) > most,
        "out_of_reach": list(erasure.OUT_OF_REACH),
    }


def confirm(found: Summary, expected: int | None, ask: Confirm) -> None:
    """Refuse an erasure that `check` says is to be confirmed, unless its number of clients is.

    Raises:
        ConfigError: another number was *expected* or typed, or none.
    """
    count = found["clients"]
    said = expected
    if expected is None:
        if not found["must_be_confirmed"]:
            return
        said = ask(found)
    if said != count:
        was = "" if said is None else f", not {said:,}"
        raise ConfigError(
            f"forget: this would erase {count:,} clients{was}, and an erasure cannot be taken back. If that is meant, "
            f"say --expect {count}. Nobody was erased."
        )


def refuse_unsigned(by: str, reason: str) -> None:
    """Refuse an erasure of many of which nobody says why and by whom.

    Raises:
        ConfigError: saying so.
    """
    if not by.strip() or not reason.strip():
        raise ConfigError(
            "forget: this is more than one client: say why (--reason) and who (--by); both are kept, without ids."
        )


def forget(settings: Settings, ids: Ids, request_ref: str, watch: Watch, *, by: str = "", reason: str = "") -> Summary:
    """Deny these clients every channel, then erase them; a later run erases those who were not denied yet.

    Raises:
        StateError, BusyError: there is no state, or another run holds it.
    """
    tls.context(settings.endpoint)
    watch.stage("erasing")
    with holding(settings, erasing=True) as state:
        before = erasure.erased_before(state, settings, ids)
        unknown = ~before & ~state.knows(ids)
        denied = erasure.ask(state, settings, ids, request_ref, by=by.strip(), reason=reason.strip())
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
        return erasure.result(
            len(ids) - waiting,
            waiting,
            unknown=int(np.count_nonzero(unknown)),
            before=int(np.count_nonzero(before)),
            denied=denied,
            exit_code=exit_code,
            target=settings.endpoint.target,
        )
