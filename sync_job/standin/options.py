"""Every knob of the stand-in, with what it does."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sync_job.standin.contract import Answer, Flags
from sync_job.standin.faults import Fault, Schedule, Script
from sync_job.standin.platform import UNKNOWN, Platform

_REFUSAL = Answer(1, "Операция отклонена")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the stand-in behaves; by default every member is known, nothing goes wrong, and answers are immediate.

    Members:
        state: flags that are there from the start, by client.
        known: the members' ids; none means that every id from 1 on is one.
        unknown_every: ids that are a multiple of it are no members; 0 for none.
        unknown: what a request for no member is answered.
        keep_log: whether `platform.log` grows by an entry a request; turn it off for runs of many millions.

    Time:
        latency_ms: how long every request takes.
        jitter_ms: the mean of what is added to that, exponentially distributed.

    Faults (`faults.Schedule` says which comes first):
        seed: of faults and jitter.
        rates: the probability of each fault.
        every: faults that come with every Nth request, N each.
        script: called with request number and client, decides alone.
        retry_after_s: what Retry-After says; a text is sent as it is, for dates and nonsense.
        late_s: how long after its arrival a late request is applied.
        refusal: what a refused request is answered.

    Connections:
        bearer_token: a request without `Authorization: Bearer` and this is answered 401; none lets all pass.
        requests_per_connection: a connection is closed after so many; 0 for no limit.
        announce_close: whether the last answer says `Connection: close`, or the client finds out by itself.
        keepalive_s: how long a connection may idle.

    Record:
        record: a file that holds the state as CSV, replaced whole while the stand-in runs and when it stops.
        record_every_s: the least time between two replacements while it runs.

    Raises:
        ValueError: for rates, counts or times that make no sense.
    """

    state: Mapping[int, Flags] = field(default_factory=dict)
    known: Collection[int] | None = None
    unknown_every: int = 0
    unknown: Answer = UNKNOWN
    keep_log: bool = True

    latency_ms: float = 0.0
    jitter_ms: float = 0.0

    seed: int = 0
    rates: Mapping[Fault, float] = field(default_factory=dict)
    every: Mapping[Fault, int] = field(default_factory=dict)
    script: Script | None = None
    retry_after_s: int | str = 1
    late_s: float = 1.0
    refusal: Answer = _REFUSAL

    bearer_token: str | None = None
    requests_per_connection: int = 0
    announce_close: bool = True
    keepalive_s: float = 120.0

    record: Path | None = None
    record_every_s: float = 1.0

    def __post_init__(self) -> None:
        if min(self.unknown_every, self.requests_per_connection, self.late_s, self.record_every_s) < 0:
            raise ValueError("counts and times are no less than 0")
        self.schedule()

    def schedule(self) -> Schedule:
        """Return the schedule of faults and delays."""
        return Schedule(
            seed=self.seed,
            rates=self.rates,
            every=self.every,
            script=self.script,
            latency_s=self.latency_ms / 1000,
            jitter_s=self.jitter_ms / 1000,
        )

    def platform(self) -> Platform:
        """Return a platform with these members, in the state they start in."""
        return Platform(
            state=self.state,
            known=self.known,
            unknown_every=self.unknown_every,
            unknown=self.unknown,
            keep_log=self.keep_log,
        )
