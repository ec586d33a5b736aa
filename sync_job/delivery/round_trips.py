"""How long good answers took, as a histogram: what a report and a metric can keep of millions of them."""

from bisect import bisect_left

# Those that Prometheus uses for web requests, as far as a request may take (`[delivery] timeout_s` is 30 by default).
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RoundTrips:
    """Counts round trips by the first of BOUNDS_S that they do not pass; the last count is of those beyond all."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, took_s: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS_S, took_s)] += 1
        self.sum_s += took_s
