"""Which of many like events are told: the first at once, then one in a while, each with how many it stands for."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

EVERY_S = 60.0


@dataclass(slots=True)
class _Told:
    """When something was told last, and how often it came since."""

    at: float
    since: int = 0


class Sampler:
    """Lets one event of each key through in *every_s*; none is lost from the counts, if `rest` is asked at the end."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._told: dict[Hashable, _Told] = {}

    def take(self, key: Hashable, now: float) -> int:
        """Return for how many events one line stands now, this one among them; 0 where it is not to be told yet.

        *now* is of a clock that does not go back, in seconds.
        """
        told = self._told.get(key)
        if told is None:
            self._told[key] = _Told(now)
            return 1
        told.since += 1
        if now - told.at < self._every_s:
            return 0
        count, told.at, told.since = told.since, now, 0
        return count

    def rest(self) -> Iterator[tuple[Hashable, int]]:
        """Yield what came and was not told yet, with how often it did, and begin anew."""
        told, self._told = self._told, {}
        yield from ((key, one.since) for key, one in told.items() if one.since)
