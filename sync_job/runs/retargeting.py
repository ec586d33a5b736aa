"""`state retarget`: the same platform has another address, and the state is to go on there."""

import time
from dataclasses import replace
from pathlib import Path

from sync_job.config import Settings
from sync_job.config.values import base_url
from sync_job.errors import ConfigError, ForeignStateError, StateError
from sync_job.ledger import anchor, backed_up, files, ledger
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.report.counts import Summary
from sync_job.runs.recover import holding


def retarget(settings: Settings, url: str, *, same_platform: bool, reason: str, by: str) -> Summary:
    """Bind the state to *url*, the platform's new address; the configuration may have the old one or already this.

    What the keys have of the target is written under its new name first, then the ledger is switched, then what has
    the old name is removed: done again, it makes good what died in between.

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
    if settings.endpoint.base_url not in (old.endpoint.base_url, new.endpoint.base_url):
        raise ConfigError(
            f"state retarget: the configuration says {settings.endpoint.base_url}, and this state moves from "
            f"{old.endpoint.base_url} to {new.endpoint.base_url}. It must say one of the two."
        )
    with State.open(folder, was, write=False) as state:
        # A backup from before such a move is put back: what the keys know of it has the new name by now.
        _copy_keys(keys, state.ledger.place()["state"], new.endpoint.target, was, over=False)
    with holding(old, while_paused=True) as state:
        if was != new.endpoint.target:
            _copy_keys(keys, state.ledger.place()["state"], was, new.endpoint.target, over=True)
            state.ledger.about.move(new.endpoint.target, reason=reason.strip(), by=by.strip(), now=time.time())
        moves = state.ledger.about.moves()
        if not moves:
            raise ConfigError(f"{folder.absolute()}: it is the state of {was} already.")
        for former in {one["target"] for one in moves} - {new.endpoint.target}:
            _remove_keys(state, keys, former)
    return {
        "was": moves[-1]["target"],
        "target": new.endpoint.target,
        "base_url": new.endpoint.base_url,
        "mend": settings.endpoint.base_url != new.endpoint.base_url,
        "reason": moves[-1]["reason"],
        "by": moves[-1]["by"],
    }


def _remove_keys(state: State, keys: Path, target: str) -> None:
    """Remove what the keys have under a former name of the target, unless another state has that name by now."""
    found = anchor.read(keys, target)
    if found is not None and found.state == state.ledger.place()["state"]:
        # The anchor last: as long as it is there, the rest is known to be ours.
        tombstones, backup = keys.glob(f"{anchor.tag(target)}.tombstones*"), backed_up.path(keys, target)
        for path in (*tombstones, backup, keys / f"{anchor.tag(target)}.anchor.json"):
            files.remove(path)


def _at(settings: Settings, url: str) -> Settings:
    """Return the settings with another address."""
    return settings.model_copy(update={"endpoint": settings.endpoint.model_copy(update={"base_url": url})})


def _copy_keys(keys: Path, state: str, old: str, new: str, *, over: bool) -> None:
    """Write anchor and tombstones of *old* under the name of *new*, if need be *over* what this state has there.

    Of two lists of tombstones the longer one stays: nobody is ever taken off one.
    """
    there, found = anchor.read(keys, new), anchor.read(keys, old)
    if there is not None and there.state != state:
        raise StateError(
            f"{keys.absolute()}: there is an anchor of another state of {new}. If that one was given up, move its "
            "anchor away. Nothing was changed."
        )
    if found is None or found.state != state or (there is not None and not over):
        return
    if len(Tombstones.open(keys, old)) > len(Tombstones.open(keys, new)):
        source, copy = (keys / f"{anchor.tag(target)}.tombstones" for target in (old, new))
        files.replace(copy, lambda place: place.write_bytes(source.read_bytes()))
    anchor.write(keys, new, replace(found, target=new))
