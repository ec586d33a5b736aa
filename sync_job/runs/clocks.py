"""Times from the future in state and keys: nothing waits for them, and `state repair` brings them to now."""

import time
from dataclasses import replace

import structlog

from sync_job.config import Settings
from sync_job.consent.clocks import AHEAD_S
from sync_job.ledger import anchor, backed_up, pause
from sync_job.ledger.clocks import Now
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.ledger.withdrawn import Withdrawn
from sync_job.runs import limits

_log = structlog.get_logger()
_A_DAY_S = 86400.0  # by so much a list may say that somebody withdrew after it was received


def hurry(state: State, settings: Settings) -> None:
    """Let nothing wait, linger or be owed for longer than its longest step from now on. The caller holds the lock."""
    found = state.ledger.clocks.hurry(_now(settings))
    if found:
        _log.warning("clock.ahead", **{kind.replace(".", "_"): count for kind, count in found.items()})


def ahead(state: State, settings: Settings) -> dict[str, int]:
    """Return how many times of each kind are in the future, in state and keys."""
    latest, keys, target = time.time() + AHEAD_S, settings.state.keys, settings.endpoint.target
    known, noted = anchor.read(keys, target), backed_up.last(keys, target)
    paused = pause.paused(state.folder)
    return state.ledger.clocks.ahead(_now(settings)) | {
        kind: count
        for kind, count in {
            "keys.anchor": int(known is not None and known.written > latest),
            "keys.backup": int(noted is not None and noted.at > latest),
            "keys.tombstones": Tombstones.open(keys, target).later_than(latest),
            "snapshot.since": sum(at > latest for at in state.denied_at()),
            "keys.withdrawn": Withdrawn.open(keys, target, known).later_than(latest + _A_DAY_S),
            "state.paused": int(paused is not None and paused["at"] > latest),
        }.items()
        if count
    }


def bring_back(state: State, settings: Settings) -> dict[str, int]:
    """Bring all of them to now; return how many there were of each kind. The caller holds the lock."""
    found = ahead(state, settings)
    now, keys, target = _now(settings), settings.state.keys, settings.endpoint.target
    state.ledger.clocks.bring_back(now)
    if "snapshot.since" in found:
        holdings = state.holdings()
        state.replace_holdings(replace(holdings, dates=holdings.dates.until(now.now)), now.now)
    if "keys.anchor" in found and (known := anchor.read(keys, target)):
        anchor.write(keys, target, replace(known, written=now.now))
    if "keys.backup" in found and (noted := backed_up.last(keys, target)):
        backed_up.note(keys, target, noted._replace(at=now.now))
    if "keys.tombstones" in found:
        Tombstones.open(keys, target).bring_back(now.now + AHEAD_S, now.now)
    if "keys.withdrawn" in found:
        codes = Withdrawn.open(keys, target, anchor.read(keys, target))
        codes.bring_back(now.now + AHEAD_S + _A_DAY_S, now.now + _A_DAY_S).write()
    if "state.paused" in found and (paused := pause.paused(state.folder)):
        pause.pause(state.folder, reason=paused["reason"], by=paused["by"], now=now.now)
    return found


def _now(settings: Settings) -> Now:
    now = time.time()
    return Now(now, settings.delivery.linger_s, limits.at(settings, now))
