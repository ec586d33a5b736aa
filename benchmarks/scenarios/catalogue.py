"""The scenarios: an endpoint, how many rows, and what an endpoint of that kind can do at the most."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.scenarios.endpoints import Address, Link, Model, Quota, Rate, Servers

CEILING = 32  # in flight, for all that learn their limit, where a scenario does not say otherwise
SETTLES_S = 2.0
_STEP_S = 0.01  # in which capacity is added up; it changes at whole seconds alone


@dataclass(frozen=True)
class Scenario:
    """One endpoint and so many *rows*.

    *capacity* is the rows a second that it can deliver at a time, sent evenly; *need* how many in flight that takes.
    *assumes* says where the two come from. *answer_s*, for an endpoint that limits a rate, is what the last answer
    takes on top of its turn. Capacity changes at *changes* and comes back at *returns*; it takes *settles_s* until a
    sender can know. Rows come in at *per_s* (0: all are there). *accepted* is what Vector's own tests accept.
    """

    name: str
    about: str
    assumes: str
    rows: int
    make: Callable[[int], Model]
    capacity: Rate
    need: Rate
    answer_s: float = 0.0
    ceiling: int = CEILING
    changes: tuple[float, ...] = ()
    returns: tuple[float, ...] = ()
    settles_s: float = SETTLES_S
    per_s: float = 0.0
    accepted: str = ""

    def could(self, begin: float, end: float) -> float:
        """Return how many rows it can deliver between two times."""
        steps = round((end - begin) / _STEP_S)
        return sum(self.capacity(begin + (step + 0.5) * _STEP_S) for step in range(steps)) * _STEP_S

    @property
    def ideal_s(self) -> float:
        """How long a sender takes that knows everything beforehand."""
        left = float(self.rows - bool(self.answer_s))  # at a rate, the first row goes at once
        now = 0.0
        while (step := self.capacity(now + _STEP_S / 2) * _STEP_S) < left:
            left -= step
            now += _STEP_S
        return now + left / step * _STEP_S + self.answer_s


def always(value: float) -> Rate:
    """Return a rate that does not change."""
    return lambda _: value


def steps(*values: tuple[float, float]) -> Rate:
    """Return a rate that takes each value from its time on."""

    def at(now: float) -> float:
        return next(value for since, value in reversed(values) if now >= since)

    return at


def neighbour(now: float) -> int:
    """Return the workers that a noisy neighbour leaves: 16, and 6 of them in every other three seconds."""
    return 16 if int(now / 3) % 2 == 0 else 6


STEP = steps((0.0, 200.0), (10.0, 20.0), (20.0, 200.0))
RECYCLE = steps((0.0, 200.0), (5.0, 0.0), (7.0, 200.0))

_CONSTANT = Scenario(
    name="constant-link",
    about="answers in 0.1 s, however many are in flight",
    assumes="the endpoint has no limit, so its capacity is that of the ceiling of 32 (Vector's most was 31)",
    rows=500,
    make=Link,
    capacity=always(CEILING / 0.1),
    need=always(CEILING),
    accepted="in flight 15-16, max 31",
)
_SLOW = Scenario(
    name="slow-send-1",
    about="answers in 0.05 s; rows come in every 0.1 s",
    assumes="the rows' rate; one in flight is enough",
    rows=100,
    make=partial(Link, delay_s=0.05),
    capacity=always(10),
    need=always(1),
    answer_s=0.05,
    per_s=10,
    accepted="in flight 0.5-0.55",
)
_SERVERS = Scenario(
    name="deep-queue",
    about="8 workers of 0.04 s and a queue of 1000; the sender may have 100 in flight",
    assumes="8 / 0.04 s; more than 8 in flight wait in the queue",
    rows=4000,
    make=partial(Servers, workers=lambda _: 8, service_s=always(0.04), jitter=0.2),
    capacity=always(200),
    need=always(8),
    ceiling=100,
)

SCENARIOS = (
    _CONSTANT,
    replace(
        _CONSTANT,
        name="fixed-concurrency-simple",
        about="answers in 0.1 s; the sender may have 10 in flight",
        assumes="the ceiling of 10 is the scenario: 10 / 0.1 s",
        capacity=always(10 / 0.1),
        need=always(10),
        ceiling=10,
        accepted="80-85/s",
    ),
    replace(
        _CONSTANT,
        name="fixed-concurrency-jitter",
        about="answers in 0.1 s and a random 0.05 s more; the sender may have 10 in flight",
        assumes="the ceiling of 10 is the scenario: 10 / 0.15 s",
        make=partial(Link, jitter=0.5),
        capacity=always(10 / 0.15),
        need=always(10),
        ceiling=10,
        accepted="55-66/s",
    ),
    replace(
        _CONSTANT,
        name="jittery-link-small",
        about="answers in 0.1 s and a random 0.01 s more, however many are in flight",
        assumes="as constant-link, of the ceiling of 32: 32 / 0.11 s",
        rows=1000,
        make=partial(Link, jitter=0.1),
        capacity=always(CEILING / 0.11),
        accepted="70-150/s",
    ),
    Scenario(
        name="defers-at-high-concurrency",
        about="answers in 0.1 s; the sixth in flight gets 503, after that time",
        assumes="5 / 0.1 s",
        rows=500,
        make=partial(Link, defers_above=5),
        capacity=always(50),
        need=always(5),
        accepted="20-44/s, max 18",
    ),
    Scenario(
        name="drops-at-high-concurrency",
        about="answers in 0.1 s; the sixth in flight gets no answer, and times out after 1 s",
        assumes="5 / 0.1 s",
        rows=500,
        make=partial(Link, drops_above=5),
        capacity=always(50),
        need=always(5),
        accepted="31-54/s",
    ),
    Scenario(
        name="defers-at-high-rate",
        about="answers in 0.1 s; above 100 a second they are 503",
        assumes="the rate; at 0.1 s it takes 10 in flight",
        rows=1000,
        make=partial(Link, defers_rate=always(100)),
        capacity=always(100),
        need=always(10),
        answer_s=0.1,
        accepted="31-75/s, max 123/s",
    ),
    Scenario(
        name="shallow-knee",
        about="answers in 0.1 s up to 10 in flight; each above makes all a tenth slower",
        assumes="10 / 0.1 s; 11 in flight deliver the same, each more a little less",
        rows=1000,
        make=partial(Link, knee_start=10, knee_exp=1.1),
        capacity=always(100),
        need=always(10),
        accepted="87-89/s, max 12",
    ),
    Scenario(
        name="slow-link",
        about="answers in 0.1 s for each in flight: one at a time",
        assumes="1 / 0.1 s, however many are in flight; so one is enough",
        rows=200,
        make=partial(Link, scale=1.0),
        capacity=always(10),
        need=always(1),
        accepted="in flight 1.5-5",
    ),
    replace(
        _SLOW,
        name="medium-send",
        about="answers in 0.1 s; rows come in every 0.025 s",
        assumes="the rows' rate; at 0.1 s it takes 4 in flight",
        rows=500,
        make=Link,
        capacity=always(40),
        need=always(4),
        answer_s=0.1,
        per_s=40,
        accepted="in flight 4-4.5",
    ),
    _SLOW,
    replace(
        _SLOW,
        name="slow-send-2",
        about="answers in 0.05 s; rows come in every 0.05 s",
        capacity=always(20),
        per_s=20,
        accepted="in flight 1-1.2",
    ),
    Scenario(
        name="step-refused",
        about="answers in 0.11 s; above 200 a second, for ten seconds 20, and 200 again, they are 503",
        assumes="the rate; at 0.11 s it takes 22, 2.2 and 22 in flight",
        rows=4600,
        make=partial(Link, jitter=0.1, defers_rate=STEP),
        capacity=STEP,
        need=lambda now: STEP(now) * 0.11,
        answer_s=0.11,
        changes=(10.0, 20.0),
        returns=(20.0,),
    ),
    replace(
        _SERVERS,
        name="step-slow",
        about="8 workers of 0.04 s, for ten seconds of 0.4 s, and of 0.04 s again; nothing is turned away",
        assumes="8 / 0.04 s and 8 / 0.4 s; more than 8 in flight wait in the queue",
        rows=4600,
        make=partial(Servers, workers=lambda _: 8, service_s=lambda now: 8 / STEP(now), jitter=0.2),
        capacity=STEP,
        ceiling=CEILING,
        changes=(10.0, 20.0),
        returns=(20.0,),
    ),
    replace(
        _SERVERS,
        name="recycle",
        about="8 workers of 0.04 s; from second 5 to 7 every answer is 503, at once",
        assumes="8 / 0.04 s, and nothing while it is down",
        rows=2600,
        make=partial(
            Servers, workers=lambda _: 8, service_s=always(0.04), jitter=0.2, down=lambda now: RECYCLE(now) == 0
        ),
        capacity=RECYCLE,
        ceiling=CEILING,
        changes=(5.0, 7.0),
        returns=(7.0,),
    ),
    _SERVERS,
    Scenario(
        name="noisy-neighbour",
        about="16 workers of 0.04 s, of which a neighbour takes 10 in every other three seconds",
        assumes="16 / 0.04 s and 6 / 0.04 s",
        rows=6000,
        make=partial(Servers, workers=neighbour, service_s=always(0.04), jitter=0.5),
        capacity=lambda now: neighbour(now) / 0.04,
        need=neighbour,
        changes=tuple(float(at) for at in range(3, 60, 3)),
    ),
    Scenario(
        name="address-403",
        about="answers in 0.05 s; above 100 requests within a second all are 403 for 5 s",
        assumes="the rate; at 0.05 s it takes 5 in flight. Settled: when the first block is over",
        rows=4000,
        make=partial(Address, delay_s=0.05, above=100, block_s=5),
        capacity=always(100),
        need=always(5),
        answer_s=0.05,
        settles_s=9.0,
    ),
    Scenario(
        name="retry-after",
        about="answers in 0.05 s; 60 in each whole second, the others get 429 and Retry-After: 1",
        assumes="the rate, sent evenly; at 0.05 s it takes 3 in flight. Settled: after the first pauses",
        rows=1500,
        make=partial(Quota, delay_s=0.05, per_s=60),
        capacity=always(60),
        need=always(3),
        answer_s=0.05,
        settles_s=4.0,
    ),
)
BY_NAME = {one.name: one for one in SCENARIOS}
