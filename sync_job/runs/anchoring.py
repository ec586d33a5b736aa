"""Keeps the anchor beside the keys, and says what a state that does not match it may still do."""

import hashlib
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import structlog

from sync_job.config import Settings
from sync_job.consent.channels import Ids, denied, deny
from sync_job.consent.lists import BASES
from sync_job.consent.tables import Table
from sync_job.errors import RestoredStateError, StateError
from sync_job.ledger import accounting, anchor, inbox, rebinding
from sync_job.ledger.anchor import Anchor, Standing
from sync_job.ledger.state import State
from sync_job.ledger.withdrawn import Recognised, Withdrawn
from sync_job.runs import erasure, limits

_log = structlog.get_logger()

# Whose withdrawal is known by its code alone: in the place of a request's reference, and of the name of a list.
REFERENCE = "known by the keys"
_WHO = ("withdrawn", "unnamed", "edition", "digest")  # of the anchor, by the codes


def codes_of(settings: Settings, found: Anchor | None) -> Withdrawn:
    """Return the codes of who withdrew from a target whose anchor is *found*."""
    return Withdrawn.open(settings.state.keys, settings.endpoint.target, found)


def keep(state: State, settings: Settings) -> None:
    """Note beside the keys how far the state has come and who withdrew, so that an older one is known again."""
    keys, target = settings.state.keys, settings.endpoint.target
    found = anchor.read(keys, target)
    if accounting.entered(state.ledger, found) and found:
        who = {name: getattr(found, name) for name in _WHO}
    else:
        codes = accounting.enter(state.ledger, keys, codes_of(settings, found))
        who = dict(zip(_WHO, (len(codes), codes.unnamed(), codes.edition, codes.digest), strict=True))
    if state.ledger.about.restored() == "shrunken":
        # It must not be taken for whole before a person has said what it lacks. Whom it knows, it knows.
        if found and found.edition != who["edition"]:
            anchor.write(keys, target, replace(found, **who))
        return
    # Fewer codes than there were are lost ones, and stay so until a person says how many.
    buried = max(len(erasure.tombstones(settings)), state.ledger.about.buried())
    now = time.time()
    anchor.write(keys, target, Anchor(target=target, written=now, tombstones=buried, **who, **state.ledger.place()))
    state.ledger.about.note_anchored()
    if buried > state.ledger.about.buried():
        state.ledger.about.note_buried(buried)
    rebinding.finish(keys, state.ledger, target, now)  # what a `state retarget` that died has left


def check(state: State, settings: Settings, *, lists_only: bool) -> None:
    """Hold the state against its anchor; one that is older owes every denial again, and grants nothing.

    Raises:
        RestoredStateError: when it lacks people who withdrew, unless *lists_only*.
        StateError: when the anchor is another state's, the state goes on under another name, or codes of erased
            clients are lost, unless *lists_only* or for `forget`.
    """
    keys, target = settings.state.keys, settings.endpoint.target
    rebinding.follow(keys, state.ledger, target, time.time())
    found = anchor.read(keys, target)
    place, anchored = state.ledger.place(), state.ledger.about.is_anchored()
    folder = state.folder.absolute()
    if found and anchor.compare(found, missing=0, anchored=anchored, **place) is Standing.MOVED:
        raise StateError(
            f"{folder}: this state has moved to {anchor.moved(keys, target)}, and a backup from before that lies here. "
            "Nothing was sent. Bind it to that address as well (`consent-sync state retarget`): then it is a restored "
            "backup like any."
        )
    codes = codes_of(settings, found)
    buried = state.ledger.about.buried()
    if (before := anchor.codes_before(found, state=place["state"], buried=buried)) > buried:
        state.ledger.about.note_buried(before)
    if (lost := codes_lost(state, settings)) and not lists_only and not state.erasing:
        raise StateError(
            f"{keys.absolute()}: the codes of {erased(lost)} are lost, of {state.ledger.about.buried():,}: they would "
            "be sent again. Restore the folder of keys from its newest backup. If there is none, `forget` once more "
            "whom you can name, then say so with `consent-sync state restored --none --erased-missing "
            f"{lost} --by NAME`. Nothing was sent."
        )
    missing = accounting.missing(state.ledger, codes)
    standing = anchor.compare(found, missing=missing, anchored=anchored, **place)
    noted = state.ledger.about.restored()
    if standing is Standing.GOOD and noted == "put back":
        standing = Standing.RESTORED  # The anchor knows of nothing that is missing; of lists in the inbox it does not.
    if standing is Standing.FOREIGN:
        raise StateError(
            f"{folder}: another state than the one that {keys.absolute()} knows of this target. If the other one was "
            "lost and this one is to go on, move its anchor away from there."
        )
    if standing in (Standing.SHRUNKEN, Standing.RESTORED):
        if noted in ("", "put back"):
            deny_again(state, settings)
        erasure.again(state, settings)
        # Whoever was erased since the backup may have withdrawn once more.
        missing = accounting.missing(state.ledger, codes)
        if missing:
            standing = Standing.SHRUNKEN
    if standing is Standing.SHRUNKEN:
        state.ledger.about.note_restored("shrunken", found.run if found else 0)
    elif standing is Standing.RESTORED and noted != "shrunken":  # which other lists do not mend
        state.ledger.about.note_restored("older", found.run if found else 0)
        keep(state, settings)
        _log.warning("state.restored", last_run=place["run"], anchor_run=found.run if found else None)
    if state.ledger.about.restored() == "shrunken" and not lists_only:
        if not missing:
            raise RestoredStateError(
                f"{folder}: a backup that lacked people who withdrew. All of them are known again by now, and nothing "
                "but lists of withdrawals is sent until somebody says so: `consent-sync state restored --none --by "
                "NAME`."
            )
        raise RestoredStateError(
            f"{folder}: a backup that lacks {people(missing)} of the {len(codes):,} who withdrew, by the codes in "
            f"{keys.absolute()}. Nothing but lists of withdrawals is sent. Say who withdrew since: `consent-sync state "
            "restored --withdrawals-since LIST --by NAME`."
        )


def people(count: int) -> str:
    """Return so many people, in words."""
    return "1 person" if count == 1 else f"{count:,} people"


def erased(count: int) -> str:
    """Return so many erased people, in words."""
    return f"{count:,} erased {'person' if count == 1 else 'people'}"


def codes_lost(state: State, settings: Settings) -> int:
    """Return of how many erased people the codes beside the keys are lost, by what the ledger counted."""
    return max(0, state.ledger.about.buried() - len(erasure.tombstones(settings)))


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
    """Return how many people withdrew whom a state does not deny it; those who are unnamed are not counted."""
    found = anchor.read(settings.state.keys, settings.endpoint.target)
    return accounting.missing(state.ledger, codes_of(settings, found))


def take_over(state: State, settings: Settings, ids: Ids) -> int:
    """Take in the withdrawals that only the codes know, of those among *ids*, and note the others as unnamed.

    Afterwards the state denies whatever it lacked as soon as it sees whose it was. Return how many people of *ids*
    that were.
    """
    found = anchor.read(settings.state.keys, settings.endpoint.target)
    codes = codes_of(settings, found)
    count = _take_in(state, settings, codes.recognise(ids, codes.behind(state.ledger.claims.all())))
    after = codes.unnaming(codes.missing(state.ledger.claims.all()))
    if after is not codes:
        after.write()
    state.ledger.about.note_accounted(None)
    return count


def unnamed_among(settings: Settings, statements: Table) -> Recognised | None:
    """Return the withdrawals of people of an export that nobody could name before; none if there are none such.

    Of those who were erased nothing is taken in again.
    """
    found = anchor.read(settings.state.keys, settings.endpoint.target)
    if found is None or not found.unnamed:
        return None
    codes = codes_of(settings, found)
    ids = statements.items()[0]
    ids = ids[~erasure.tombstones(settings).of(ids)]
    recognised = codes.recognise(ids, codes.entries["unnamed"])
    return recognised if len(recognised.client) else None


def recognise(state: State, settings: Settings, statements: Table) -> None:
    """Take in the withdrawals of people of an export that nobody could name before."""
    if recognised := unnamed_among(settings, statements):
        count = _take_in(state, settings, recognised)
        keep(state, settings)
        _log.warning("withdrawals.recognised", clients=count)


def _take_in(state: State, settings: Settings, rows: Recognised) -> int:
    """Take withdrawals in that only the codes beside the keys knew, as a list of its own; return of how many people."""
    if not len(rows.client):
        return 0
    now = time.time()
    size = len(rows.client)
    batch = pa.record_batch(
        {
            "client": pa.array(rows.client),
            "channels": pa.array(rows.channels),
            "given": pa.array(np.zeros(size, np.int32)),
            "received_at": pa.array(np.full(size, now)),
            "withdrawn_at": pa.array(rows.withdrawn_at),
            "basis": pa.array(np.full(size, BASES.index("consent-withdrawn"), np.uint8)),
            "request_ref": pa.array([REFERENCE] * size),
        },
        inbox.SCHEMA,
    )
    content = b"".join(column.tobytes() for column in rows)
    about = {"digest": hashlib.sha256(content).hexdigest(), "source": REFERENCE, "taken_in": now}
    about["id_map"] = state.ledger.about.resolved()
    state.ledger.withdrawals.absorb([batch], about, now=now, limit_of=partial(limits.of, settings))
    return len(np.unique(rows.client))
