"""The stand-in's members and their flags: what a request that binds does to them, and how they are shown.

One thread writes. Others may read `state`, `log` and the CSV while it does: they copy in one step.
"""

import time
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import NamedTuple

from sync_job.standin.contract import Answer, Flags, Update

CSV_HEADER = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque"
UNKNOWN = Answer(8, "Участник не найден")
_NOTHING = Flags()


class Entry(NamedTuple):
    """One request that reached the members, in the order of their arrival; `at_s` is a monotonic clock's."""

    sequence: int
    at_s: float
    client: int
    flags: Flags
    answer: Answer


class Platform:
    """Clients and their four flags; a flag changes only when an update states it.

    Every id from 1 on is a member, except multiples of *unknown_every* (0: none), and, where *known* is given,
    all but those. An update for no member answers *unknown* and changes nothing. `entries` counts the updates that
    reached the members, refused ones too; `log` holds them unless *keep_log* is off, which a long run needs: an
    entry takes about 250 bytes.
    """

    def __init__(
        self,
        *,
        state: Mapping[int, Flags] | None = None,
        known: Collection[int] | None = None,
        unknown_every: int = 0,
        unknown: Answer = UNKNOWN,
        keep_log: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = dict(state or {})
        self._known = None if known is None else frozenset(known)
        self._unknown_every = unknown_every
        self._unknown = unknown
        self._keep_log = keep_log
        self._clock = clock
        self._log: list[Entry] = []
        self.entries = 0

    @property
    def state(self) -> dict[int, Flags]:
        """A copy of every client's flags; a client of whom nothing was ever stated is not in it."""
        return self._state.copy()

    @property
    def log(self) -> list[Entry]:
        """A copy of the entries so far, oldest first."""
        return self._log.copy()

    def knows(self, client: int) -> bool:
        """Return whether *client* is a member."""
        if client < 1 or (self._unknown_every and client % self._unknown_every == 0):
            return False
        return self._known is None or client in self._known

    def apply(self, update: Update) -> Answer:
        """Set the flags that *update* states, log it, and return the answer."""
        client, flags = update.client, update.flags
        if self.knows(client):
            answer = Answer(0)
            if flags != _NOTHING:
                before = self._state.get(client, _NOTHING)
                self._state[client] = Flags(
                    *(old if new is None else new for old, new in zip(before, flags, strict=True))
                )
        else:
            answer = self._unknown
        self.entries += 1
        if self._keep_log:
            self._log.append(Entry(self.entries, self._clock(), client, flags, answer))
        return answer

    def csv(self) -> str:
        """Return the state in the shape of an export: a header, then a line per client, sorted by client."""
        lines = [f"{client},{_fields(flags)}" for client, flags in sorted(self._state.copy().items())]
        return "\n".join([CSV_HEADER, *lines, ""])


@lru_cache(maxsize=81)  # three values in each of four flags
def _fields(flags: Flags) -> str:
    return ",".join("" if flag is None else str(flag).lower() for flag in flags)
