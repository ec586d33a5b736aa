"""How the sending of a leg went: figures for its report that neither plan nor journal has."""

from dataclasses import dataclass, field

from sync_job.consent.channels import NOBODY, Ids
from sync_job.consent.fold import Outcome
from sync_job.delivery import pool
from sync_job.delivery.round_trips import RoundTrips
from sync_job.runs.samples import Sample

_NOT_LOGGED = ("good", "untried", "round_trips", "samples")


@dataclass
class Delivery:
    """How the sending of a run went, as its report says."""

    requests: int = 0
    settled: int = 0
    delivered: int = 0
    limit: float = 0.0
    limit_met: bool = False  # more was tried, and did not do
    most_in_flight: int = 0
    round_trip_s: float = 0.0
    turned_away: int = 0
    pauses: int = 0
    outages: int = 0
    once_more: int = 0
    good: bool = False  # there was a good answer, in this leg or in one before
    untried: Ids = field(default_factory=lambda: NOBODY, repr=False)  # of whom no request was made
    round_trips: RoundTrips = field(default_factory=RoundTrips, repr=False)
    samples: list[Sample] = field(default_factory=list, repr=False)

    def figures(self) -> dict[str, object]:
        """Return what fits into a line of a log."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_LOGGED}

    @classmethod
    def of(cls, senders: pool.Pool, samples: list[Sample]) -> "Delivery":
        """Return how a pool fared."""
        gate = senders.limiter
        return cls(
            requests=senders.requests,
            settled=senders.progress.settled,
            delivered=senders.progress.outcomes[Outcome.DELIVERED],
            limit=round(gate.law.value, 2),
            limit_met=gate.law.met,
            round_trip_s=round(gate.rtt_s, 4),
            once_more=senders.progress.once_more,
            good=senders.good,
            round_trips=gate.round_trips,
            samples=samples,
            **vars(gate.seen),
        )
