"""`state retarget`: the same platform has another address, and the state is to go on there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sync_job.config import Settings
from sync_job.config.values import base_url
from sync_job.errors import ConfigError, ForeignStateError
from sync_job.ledger import anchor, ledger, lock, rebinding
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.runs.recover import holding


def retarget(settings: Settings, url: str, *, same_platform: bool, reason: str, by: str) -> Summary:
    """Bind the state to *url*, the platform's new address; the configuration may have the old one or already this.

    What the keys have of the target is written under its new name first, then the old anchor says where the state has
    moved, then the ledger is switched, then what else has the old name is removed. Given again, as it
    was or with a configuration that was mended, it makes good what died in between. A backup from before such a move
    is bound to where the state is now, and is a restored backup there.

    Raises:
        ConfigError: when nobody says that it is the same platform, why and who, or the configuration has another one.
        StateError: when it is another operator's, the keys know another state there, or it may not go on.
    """
    if not same_platform or not reason.strip() or not by.strip():
        raise ConfigError(
            "state retarget: say --same-platform, if clients and what is held of them are the same there, why "
            "(--reason) and who says so (--by). Another platform needs a state of its own: `init`."
        )
    try:
        new = _at(settings, base_url(url))
    except ValueError as exc:
        raise ConfigError(f"state retarget: {exc}.") from exc
    folder, keys = settings.state.path, settings.state.keys
    was = ledger.target_of(folder / "ledger.db")
    old = _at(settings, was.rpartition(" operator ")[0])
    if old.endpoint.target != was:
        raise ForeignStateError(
            f"{folder.absolute()}: the state of {was}, and the configuration says operator "
            f"{settings.endpoint.operator or 0}. Another operator's clients are others."
        )
    again = was == new.endpoint.target and settings.endpoint.target in _formers(old)
    if not again and settings.endpoint.base_url not in (old.endpoint.base_url, new.endpoint.base_url):
        raise ConfigError(
            f"state retarget: the configuration says {settings.endpoint.base_url}, and this state moves from "
            f"{old.endpoint.base_url} to {new.endpoint.base_url}. It must say one of the two."
        )
    now, target = time.time(), new.endpoint.target
    # A backup from before a move needs no more than its new name: there the keys know how far it had come.
    moved = was != target and _has_moved(settings, was, target)
    with _at_rest(settings, was) if moved else holding(old, while_paused=True) as state:
        place = state.ledger.place()
        if was != target:
            if not moved:
                rebinding.bind(keys, place["state"], was, target)
                rebinding.note_move(keys, place, was, target, now)
            state.ledger.about.move(target, reason=reason.strip(), by=by.strip(), now=now)
        moves = state.ledger.about.moves()
        if not moves:
            raise ConfigError(f"{folder.absolute()}: it is the state of {was} already.")
        rebinding.finish(keys, state.ledger, target, now)
    return {
        "was": moves[-1]["target"],
        "target": new.endpoint.target,
        "base_url": new.endpoint.base_url,
        "mend": settings.endpoint.base_url != new.endpoint.base_url,
        "reason": moves[-1]["reason"],
        "by": moves[-1]["by"],
    }


def _formers(settings: Settings) -> list[str]:
    """Return which targets the state was before."""
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        return [one["target"] for one in state.ledger.about.moves()]


def _has_moved(settings: Settings, was: str, to: str) -> bool:
    """Return whether the state in the folder is a backup from before a move to *to*, by the keys."""
    keys = settings.state.keys
    with State.open(settings.state.path, was, write=False) as state:
        ours = state.ledger.place()["state"]
    found, seen = anchor.read(keys, was), {was}
    while found is not None and found.state == ours and found.moved_to and found.moved_to not in seen:
        if found.moved_to == to:
            return True
        seen.add(found.moved_to)
        found = anchor.read(keys, found.moved_to)
    return False


@contextmanager
def _at_rest(settings: Settings, target: str) -> Iterator[State]:
    """Hold the lock of a state of *target* while the block runs, without finishing anything in it."""
    with lock.held(settings.state.path), State.open(settings.state.path, target, write=True) as state:
        yield state


def _at(settings: Settings, url: str) -> Settings:
    """Return the settings with another address."""
    return settings.model_copy(update={"endpoint": settings.endpoint.model_copy(update={"base_url": url})})
