"""How the sending of a leg went: figures for its report that neither plan nor journal has."""

from dataclasses import dataclass

from sync_job.delivery import pool


@dataclass
class Delivery:
    """How the sending of a run went, as its report says."""

    requests: int = 0
    settled: int = 0
    limit: float = 0.0
    limit_met: bool = False  # more was tried, and did not do
    most_in_flight: int = 0
    round_trip_s: float = 0.0
    turned_away: int = 0
    pauses: int = 0
    outages: int = 0
    once_more: int = 0

    @classmethod
    def of(cls, senders: pool.Pool) -> "Delivery":
        """Return how a pool fared."""
        gate = senders.limiter
        return cls(
            requests=senders.requests,
            settled=senders.progress.settled,
            limit=round(gate.law.value, 2),
            limit_met=gate.law.met,
            round_trip_s=round(gate.rtt_s, 4),
            once_more=senders.progress.once_more,
            **vars(gate.seen),
        )
