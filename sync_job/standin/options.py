"""Every knob of the stand-in, with what it does."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from sync_job.standin.capacity import Bar, Clock, Rate, Service
from sync_job.standin.contract import Answer, Flags
from sync_job.standin.faults import Fault, Schedule, Script
from sync_job.standin.logins import Logins
from sync_job.standin.platform import UNKNOWN, Platform

_REFUSAL = Answer(1, "Операция отклонена")


class Capacity(TypedDict, total=False):
    """The options that may change while the stand-in runs; what is left out stays as it is."""

    workers: int
    service_ms: float
    service_jitter_ms: float
    queue: int
    max_rps: float
    burst: int | None


def _never() -> float:
    return 0.0


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

    Capacity (an update that binds takes its turn after the latency, and meets its fault when it has been served):
        workers: how many are served at once, first come, first served; 0 for any number, in no time.
        service_ms: how long each is.
        service_jitter_ms: the mean of what is added to that, exponentially distributed.
        queue: how many may wait; one more is answered 503, as by IIS.
        max_rps: how many requests a second pass; 0 for any number.
        burst: how many pass at once after a pause; none for what a second lets pass.
        rate_status: what is answered to those that do not.
        rate_retry_after_s: its Retry-After; a text is sent as it is, and none leaves it out.
        block_above: an address's first request above so many within a second is answered 403; 0 for never.
        block_s: and so are all that come from it in this time.

    Faults (`faults.Schedule` says which comes first):
        seed: of faults and jitter.
        rates: the probability of each fault.
        every: faults that come with every Nth request, N each.
        script: called with request number and client, decides alone.
        retry_after_s: what Retry-After says; a text is sent as it is, for dates and nonsense.
        late_s: how long after its arrival a late request is applied.
        refusal: what a refused request is answered.

    Logins (`POST …/ManagerLogin`):
        username, password: who gets tokens; with a password a request without one of them is answered 401.
        token_life_s: how long a token is good.
        login_statuses: what the first logins are answered instead; 0 for a login like any other.

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

    workers: int = 0
    service_ms: float = 0.0
    service_jitter_ms: float = 0.0
    queue: int = 1000
    max_rps: float = 0.0
    burst: int | None = None
    rate_status: Literal[429, 503] = 429
    rate_retry_after_s: int | str | None = None
    block_above: int = 0
    block_s: float = 1.0

    seed: int = 0
    rates: Mapping[Fault, float] = field(default_factory=dict)
    every: Mapping[Fault, int] = field(default_factory=dict)
    script: Script | None = None
    retry_after_s: int | str = 1
    late_s: float = 1.0
    refusal: Answer = _REFUSAL

    username: str = ""
    password: str | None = None
    token_life_s: float = 3600.0
    login_statuses: Sequence[int] = ()

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
        self.service()
        self.rate(_never)
        self.bar(_never)

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

    def service(self) -> Service:
        """Return how much is served at once, and how fast."""
        return Service(
            workers=self.workers,
            service_s=self.service_ms / 1000,
            jitter_s=self.service_jitter_ms / 1000,
            queue=self.queue,
        )

    def rate(self, clock: Clock) -> Rate:
        """Return the limit of requests a second."""
        return Rate(self.max_rps, self.burst, clock=clock)

    def bar(self, clock: Clock) -> Bar:
        """Return the bar to addresses that ask too often."""
        return Bar(self.block_above, self.block_s, clock=clock)

    def logins(self) -> Logins:
        """Return who gets tokens, and for how long."""
        return Logins(self.username, self.password, self.token_life_s)

    def platform(self) -> Platform:
        """Return a platform with these members, in the state they start in."""
        return Platform(
            state=self.state,
            known=self.known,
            unknown_every=self.unknown_every,
            unknown=self.unknown,
            keep_log=self.keep_log,
        )
