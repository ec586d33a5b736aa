"""Keeps the anchor beside the keys, and says what a state that does not match it may still do."""

import time
from dataclasses import replace

import structlog

from sync_job.config import Settings
from sync_job.consent.channels import denied, deny
from sync_job.errors import RestoredStateError, StateError
from sync_job.ledger import anchor
from sync_job.ledger.anchor import Anchor, Standing
from sync_job.ledger.state import State
from sync_job.runs import erasure

_log = structlog.get_logger()


def keep(state: State, settings: Settings) -> None:
    """Note beside the keys how far the state has come, so that an older one is known again."""
    if state.ledger.about.restored() == "shrunken":
        return  # It must not be taken for whole before a person has said what it lacks.
    keys, target = settings.state.keys, settings.endpoint.target
    buried = len(erasure.tombstones(settings))
    anchor.write(keys, target, Anchor(target=target, written=time.time(), tombstones=buried, **state.ledger.place()))
    state.ledger.about.note_anchored()
    if buried > state.ledger.about.buried():
        state.ledger.about.note_buried(buried)


def check(state: State, settings: Settings, *, lists_only: bool) -> None:
    """Hold the state against its anchor; one that is older owes every denial again, and grants nothing.

    Raises:
        RestoredStateError: when it knows fewer withdrawals than before, unless *lists_only*.
        StateError: when the anchor is another state's.
    """
    keys, target = settings.state.keys, settings.endpoint.target
    found = anchor.read(keys, target)
    place = state.ledger.place()
    buried = max(found.tombstones if found else 0, state.ledger.about.buried())
    if len(erasure.tombstones(settings)) < buried and not lists_only:
        raise StateError(
            f"{keys.absolute()}: there were codes of {buried:,} erased clients, and fewer are left: the "
            "others would be sent again. Restore the folder of keys from its backup; or, if it is lost for good, say "
            "so with `consent-sync state restored`. Nothing was sent."
        )
    standing = anchor.compare(found, anchored=state.ledger.about.is_anchored(), **place)
    noted = state.ledger.about.restored()
    if standing is Standing.GOOD and noted == "put back":
        standing = Standing.RESTORED  # The anchor knows of nothing that is missing; of lists in the inbox it does not.
    folder = state.folder.absolute()
    if standing is Standing.FOREIGN:
        raise StateError(
            f"{folder}: another state than the one that {keys.absolute()} knows of this target. If the other one was "
            "lost and this one is to go on, move its anchor away from there."
        )
    if standing in (Standing.SHRUNKEN, Standing.RESTORED) and noted in ("", "put back"):
        deny_again(state, settings)
    if standing is Standing.SHRUNKEN:
        state.ledger.about.note_restored("shrunken", found.run if found else 0)
        erasure.again(state, settings)
    elif standing is Standing.RESTORED and noted != "shrunken":  # which other lists do not mend
        state.ledger.about.note_restored("older", found.run if found else 0)
        erasure.again(state, settings)
        keep(state, settings)
        _log.warning("state.restored", last_run=place["run"], anchor_run=found.run if found else None)
    if state.ledger.about.restored() == "shrunken" and not lists_only:
        raise RestoredStateError(
            f"{folder}: it knows {place['withdrawals']:,} withdrawals, and its anchor in {keys.absolute()} "
            f"{found.withdrawals if found else 0:,}: a backup from before the others. Nothing but lists of withdrawals "
            "is sent. Say what came in since: `consent-sync state restored --withdrawals-since LIST --by NAME`, or "
            "--none."
        )


def deny_again(state: State, settings: Settings) -> None:
    """Owe every denial again: what was granted by mistake since the backup is taken back, and nothing is granted.

    Nobody knows what was on its way when the state was lost, so everyone lingers.
    """
    now = time.time()
    state.ledger.about.note_everyone_lingers(now + settings.delivery.linger_s)
    holdings = state.holdings()
    again = replace(holdings, due=deny(holdings.due, denied(holdings.state)))
    if one := state.ledger.backfills.open():
        state.end_backfill(one, "restored", now, again)  # what it made due cannot be told from this any more
    else:
        state.replace_holdings(again, now)


def lacking(state: State, settings: Settings) -> int:
    """Return how many withdrawals a state lacks that its anchor knows of."""
    found = anchor.read(settings.state.keys, settings.endpoint.target)
    return max(0, found.withdrawals - state.ledger.place()["withdrawals"]) if found else 0
