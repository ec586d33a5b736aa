"""How fast rows settle, now and on the whole, for those who watch."""

from collections import deque

_LATELY_S = 10.0


class Pace:
    """Follows a count that grows; times are seconds of a monotonic clock."""

    def __init__(self, now: float) -> None:
        self._seen: deque[tuple[float, int]] = deque([(now, 0)])
        self._began = now
        self.rate = self.lately = 0.0  # a second

    def at(self, done: int, now: float) -> None:
        """Say how many there are by *now*."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _LATELY_S:
            self._seen.popleft()
        since, before = self._seen[0]
        self.rate = done / (now - self._began) if now > self._began else 0.0
        self.lately = (done - before) / (now - since) if now > since else 0.0
