"""What a stand-in platform answers in tests of sequences, while they say otherwise."""

from collections.abc import Callable

from sync_job.standin.faults import Fault


class Script:
    """What requests meet: what of each client, what of all others, and what *happens* in a request, by its number."""

    def __init__(self) -> None:
        self.faults: dict[int, Fault | None] = {}
        self.otherwise: Fault | None = None
        self.happens: Callable[[int], object] = lambda number: None

    def __call__(self, number: int, client: int) -> Fault | None:
        """Return what a request meets."""
        self.happens(number)
        return self.faults.get(client, self.otherwise)
