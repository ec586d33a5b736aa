"""The workers, with a scripted endpoint in virtual time: what is sent, what is repeated, and how each row ends."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from sync_job.config import DeliverySettings
from sync_job.consent.channels import parse_letters
from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Outcome
from sync_job.delivery.limit import Fixed, Law
from sync_job.delivery.pool import MOST_ONCE_MORE, SPARE_WORKERS, Pool, Row
from sync_job.delivery.sending import Reason, Sending, Stop, World
from sync_job.delivery.verdict import Answer, Codes, Failure
from sync_job.delivery.wire import Reply
from tests import virtual

EPOCH_S = 1_700_000_000.0
DENIALS, GRANTS, MIXED, MIXED_DENIALS = map(parse_letters, ("FF--", "TT--", "TF-F", "-F-F"))

GOOD = Answer(200, Reply(0, ""))
NO = Answer(200, Reply(1, "нет"))
TIMEOUT = Answer(failure=Failure.TIMEOUT)
ERROR = Answer(500)
BUSY = Answer(503)
HTML = Answer(200)
DOWN = Answer(failure=Failure.NOT_CONNECTED)
DROPPED = Answer(failure=Failure.RESET, reused=True)


@dataclass
class Request:
    """One request that reached the endpoint."""

    client: int
    sent: int
    at: float


@dataclass
class Endpoint:
    """Answers each client by its script, whose last answer repeats; without one, by *otherwise*."""

    scripts: Mapping[int, Sequence[Answer]] = field(default_factory=dict)
    otherwise: Callable[[float], Answer] = lambda _: GOOD
    takes_s: Callable[[int], float] = lambda _: 0.1
    requests: list[Request] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0
    record: "Record | None" = None
    pool: Pool | None = None

    async def attempt(self, client: int, sent: int) -> Answer:
        """Answer after a while; two requests of one client at once are a fault of the pool."""
        assert client not in self._open, "two requests of one client in flight"
        assert self.record is None or client in self.record.cleared, "dispatched without being cleared"
        before = self._before[client]
        self._before[client] += 1
        self.requests.append(Request(client, sent, virtual.now()))
        self._open.add(client)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.takes_s(client))
        finally:
            self.in_flight -= 1
            self._open.remove(client)
        script = self.scripts.get(client)
        return script[min(before, len(script) - 1)] if script else self.otherwise(virtual.now())

    def __post_init__(self) -> None:
        self._open: set[int] = set()
        self._before: Counter[int] = Counter()

    @property
    def open_clients(self) -> set[int]:
        """Those that have a request in flight."""
        return self._open

    def sent(self, client: int) -> list[int]:
        """Return what was sent of *client*, in order."""
        return [request.sent for request in self.requests if request.client == client]


@dataclass
class Settled:
    """How a row ended, as it was recorded."""

    sending: Sending
    outcome: Outcome
    denials: Outcome
    at: float


class Record:
    """Keeps outcomes; rows beyond *mark* are not cleared."""

    def __init__(self, mark: int) -> None:
        self.cleared: set[int] = set()
        self.settled: dict[int, Settled] = {}
        self.moved = asyncio.Event()
        self._mark = mark

    async def clear(self, row: int) -> None:
        """Return when the row is below the mark or that has moved, after a moment."""
        await asyncio.sleep(0.001)
        if row >= self._mark:
            await self.moved.wait()
        self.cleared.add(row)

    def settle(self, sending: Sending, outcome: Outcome, denials: Outcome, at: float) -> None:
        """Keep; a row ends once."""
        assert sending.row not in self.settled
        self.settled[sending.row] = Settled(sending, outcome, denials, at)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes in the order of the plan."""
        return [self.settled[row].outcome for row in sorted(self.settled)]


@dataclass
class Ran:
    """What a pool did."""

    endpoint: Endpoint
    record: Record
    stop: Stop
    pool: Pool
    taken: list[int]
    told: list[str]
    took_s: float

    def ended(self, row: int) -> tuple[Outcome, Outcome, int, int]:
        """Return outcome, that of the denials, doubt and attempts of *row*."""
        one = self.record.settled[row]
        return one.outcome, one.denials, one.sending.doubt, one.sending.attempts

    def counted(self) -> dict[Outcome, int]:
        """Return how many rows ended how."""
        return dict(Counter(self.record.outcomes()))


def run(
    endpoint: Endpoint,
    sent: Sequence[int],
    *,
    law: Law | None = Fixed(4),  # noqa: B008 - it is a value
    stop_at: float | None = None,
    cut_at: float | None = None,
    mark: int = 1 << 30,
    mark_moves_at: float = 0.0,
    codes: Codes | None = None,
    seed: int = 1,
    first: int = 0,
    canaries: int = 0,
    until: float = 0.0,
    **settings: float,
) -> Ran:
    """Return what a pool did with a row for each of *sent*; row and client are the same number.

    With a *law* it has no breaker, without one it is as in a run. *until* is in seconds from the start; the pool is
    asked to stop at *stop_at*, and cut off at *cut_at*.
    """

    async def main() -> Ran:
        stop, record, taken, told = Stop(), Record(mark), list[int](), list[str]()
        endpoint.record = record

        def rows() -> Iterator[Row]:
            for place, byte in enumerate(sent):
                taken.append(place)
                yield place, place, byte

        world = World(
            lambda: EPOCH_S + virtual.now(),
            virtual.now,
            virtual.sleep,
            random.Random(seed),
            lambda event, **_: told.append(event),
        )
        chosen = DeliverySettings.model_validate({"max_concurrency": 4 if law else 64} | settings)
        pool = Pool(endpoint, record, chosen, codes or Codes(), world, stop, law=law, guarded=law is None)
        endpoint.pool = pool
        loop = asyncio.get_running_loop()
        if stop_at is not None:
            loop.call_later(stop_at, stop.ask, Reason.ASKED, "enough")
        if cut_at is not None:
            loop.call_later(cut_at, pool.cut_off)
        if mark_moves_at:
            loop.call_later(mark_moves_at, record.moved.set)
        await pool.deliver(rows(), first=first, canaries=canaries, until=EPOCH_S + until if until else 0.0)
        took_s = virtual.now()
        assert endpoint.in_flight == 0
        assert pool.progress.settled == len(record.settled)
        assert pool.requests == len(endpoint.requests)
        assert pool.requests == sum(one.sending.attempts for one in record.settled.values())
        assert sum(pool.progress.outcomes.values()) == len(record.settled)
        assert sorted(record.settled) == taken, "each row that was taken is recorded"
        await asyncio.sleep(60)  # the places that fast failures keep are given back
        assert pool.limiter.in_flight == 0
        return Ran(endpoint, record, stop, pool, taken, told, took_s)

    return virtual.run(main())


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_each_row_is_sent_once_when_all_is_well() -> None:
    """In the order of the plan, with what the plan says, by as many workers as may be."""
    ran = run(Endpoint(), [DENIALS, GRANTS, MIXED] * 20)
    assert ran.taken == list(range(60))
    # Those that start in the same instant have no order among themselves.
    requests = sorted(ran.endpoint.requests, key=lambda request: (round(request.at, 6), request.client))
    assert [(request.client, request.sent) for request in requests] == list(enumerate([DENIALS, GRANTS, MIXED] * 20))
    assert {ran.ended(row) for row in range(60)} == {(Outcome.DELIVERED, Outcome.OPEN, 0, 1)}
    assert not ran.stop
    assert ran.endpoint.most == 4
    assert ran.took_s == pytest.approx(60 / 4 * 0.101)


def test_what_was_answered_is_recorded() -> None:
    """Status, code, message and times of the last attempt, the first dispatch, and no doubt where there was none."""
    one = run(
        Endpoint({0: [Answer(200, Reply(3, "занят")), Answer(200, Reply(0, "ok"))]}),
        [GRANTS],
        codes=Codes(frozenset({3})),
    )
    settled = one.record.settled[0]
    assert settled.sending == Sending(0, 2, 0, 0.0, 200, 0, "ok", EPOCH_S + 0.001)
    assert settled.at == EPOCH_S + one.took_s
    refused = run(Endpoint({0: [Answer(400)]}), [GRANTS]).record.settled[0].sending
    assert (refused.status, refused.code, refused.message) == (400, None, "HTTP 400")


@pytest.mark.parametrize("answer", [NO, Answer(400), Answer(404), Answer(409)])
@pytest.mark.parametrize("sent", [DENIALS, GRANTS])
def test_refusal_is_not_retried(answer: Answer, sent: int) -> None:
    """One attempt settles a change that the endpoint refuses for good."""
    ran = run(Endpoint({0: [answer]}), [sent])
    assert ran.ended(0) == (Outcome.REFUSED, Outcome.OPEN, 0, 1)
    assert not ran.stop


@pytest.mark.parametrize(
    ("answers", "denials", "doubt", "attempts"),
    [
        ([NO, GOOD], Outcome.DELIVERED, 0, 2),
        ([NO, NO], Outcome.REFUSED, 0, 2),
        ([NO, ERROR, GOOD], Outcome.DELIVERED, DOUBT_DENIALS, 3),
        ([NO, ERROR], Outcome.EXHAUSTED, DOUBT_DENIALS, 1 + 2 * 5),
        ([NO, BUSY, GOOD], Outcome.DELIVERED, 0, 3),
        ([TIMEOUT, NO, GOOD], Outcome.DELIVERED, DOUBT_WHOLE, 3),
        ([TIMEOUT, NO, TIMEOUT, NO], Outcome.REFUSED, DOUBT_WHOLE | DOUBT_DENIALS, 4),
        ([NO, Answer(401)], Outcome.DEFERRED, 0, 2),
    ],
)
def test_refused_grant_never_strands_a_denial(
    answers: Sequence[Answer], denials: Outcome, doubt: int, attempts: int
) -> None:
    """A refused row of both is repeated with its denials alone, and both outcomes and both doubts are kept."""
    ran = run(Endpoint({0: answers}), [MIXED])
    assert ran.ended(0) == (Outcome.REFUSED, denials, doubt, attempts)
    whole = answers.index(NO) + 1
    assert ran.endpoint.sent(0) == [MIXED] * whole + [MIXED_DENIALS] * (attempts - whole)


@pytest.mark.parametrize(
    ("answers", "outcome", "doubt", "attempts"),
    [
        ([TIMEOUT, GOOD], Outcome.DELIVERED, DOUBT_WHOLE, 2),
        ([TIMEOUT, NO], Outcome.REFUSED, DOUBT_WHOLE, 2),
        ([ERROR, GOOD], Outcome.DELIVERED, DOUBT_WHOLE, 2),
        ([Answer(failure=Failure.RESET), GOOD], Outcome.DELIVERED, DOUBT_WHOLE, 2),
        ([HTML, GOOD], Outcome.DELIVERED, DOUBT_WHOLE, 2),
        ([DOWN, GOOD], Outcome.DELIVERED, 0, 2),
        ([Answer(failure=Failure.NOT_WRITTEN), GOOD], Outcome.DELIVERED, 0, 2),
        ([Answer(425), GOOD], Outcome.DELIVERED, 0, 2),
        ([BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, GOOD], Outcome.DELIVERED, 0, 8),
        ([TIMEOUT, BUSY, DOWN, NO], Outcome.REFUSED, DOUBT_WHOLE, 4),
        ([ERROR, ERROR, ERROR, ERROR, GOOD], Outcome.DELIVERED, DOUBT_WHOLE, 5),
        ([TIMEOUT, Answer(302)], Outcome.DEFERRED, DOUBT_WHOLE, 2),
    ],
)
def test_doubt_stays_and_attempts_are_counted(
    answers: Sequence[Answer], outcome: Outcome, doubt: int, attempts: int
) -> None:
    """One attempt in doubt leaves the row in doubt, however it ends; each request is counted."""
    ran = run(Endpoint({0: answers}), [DENIALS])
    assert ran.ended(0) == (outcome, Outcome.OPEN, doubt, attempts)
    assert (ran.record.settled[0].sending.doubt_at > EPOCH_S) == bool(doubt)


def test_doubt_is_dated_by_the_last_attempt_in_doubt() -> None:
    """When it was given up, not when it was sent: from then on the client lingers."""
    ran = run(Endpoint({0: [TIMEOUT, TIMEOUT, NO]}, takes_s=lambda _: 30.0), [DENIALS])
    second = ran.endpoint.requests[1].at
    assert ran.record.settled[0].sending.doubt_at == pytest.approx(EPOCH_S + second + 30.0)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_row_is_exhausted_after_its_attempts_and_as_many_at_the_end(attempts: int) -> None:
    """Where others are answered well, the row is given up and the pool goes on."""
    ran = run(Endpoint({3: [ERROR]}), [DENIALS] * 50, attempts=attempts)
    assert ran.ended(3) == (Outcome.EXHAUSTED, Outcome.OPEN, DOUBT_WHOLE, 2 * attempts)
    assert ran.counted() == {Outcome.DELIVERED: 49, Outcome.EXHAUSTED: 1}
    assert not ran.stop


def test_garbled_answers_exhaust_a_row_after_three_and_three_at_the_end() -> None:
    """A page in the place of an answer is hardly ever cured by asking again."""
    ran = run(Endpoint({3: [HTML]}), [DENIALS] * 50, attempts=50)
    assert ran.ended(3) == (Outcome.EXHAUSTED, Outcome.OPEN, DOUBT_WHOLE, 6)


def test_overload_never_exhausts_a_row() -> None:
    """Two minutes of 503, with one attempt a row: everything is delivered in the end, and nothing is in doubt."""
    ran = run(Endpoint(otherwise=lambda at: BUSY if at < 120 else GOOD), [DENIALS] * 20, attempts=1)
    assert set(ran.record.outcomes()) == {Outcome.DELIVERED}
    assert not any(one.sending.doubt for one in ran.record.settled.values())
    assert not ran.stop


@pytest.mark.parametrize("good_s", [0.0, 1.0])
def test_outage_ends_the_run_and_leaves_the_rest(good_s: float) -> None:
    """An endpoint that stays overloaded is waited for, and then the rows are deferred, not exhausted."""
    ran = run(Endpoint(otherwise=lambda at: GOOD if at < good_s else BUSY), [DENIALS] * 500, max_outage_s=60)
    assert ran.stop.reason is Reason.OUTAGE
    assert "60 s" in ran.stop.why
    assert 60 <= ran.took_s < 60 + 31 + good_s
    assert set(ran.record.outcomes()) <= {Outcome.DELIVERED, Outcome.DEFERRED}
    assert len(ran.taken) == len(ran.record.settled) < 500


@pytest.mark.parametrize("answer", [ERROR, DOWN, TIMEOUT, HTML])
def test_endpoint_without_one_good_answer_ends_the_run(answer: Answer) -> None:
    """The first row that runs out of attempts says that it is not the row; nothing is exhausted."""
    ran = run(Endpoint(otherwise=lambda _: answer), [DENIALS] * 500)
    assert ran.stop.reason is Reason.HOPELESS
    assert "not one good answer" in ran.stop.why
    assert set(ran.record.outcomes()) == {Outcome.DEFERRED}
    assert len(ran.taken) < 50


@pytest.mark.parametrize(
    "answer", [Answer(302, detail="/login"), Answer(401), Answer(403), Answer(failure=Failure.CERTIFICATE)]
)
def test_wrong_endpoint_ends_the_run_at_once(answer: Answer) -> None:
    """A redirect, missing rights or a foreign certificate: each worker has sent at most once, and no row is lost."""
    ran = run(Endpoint(otherwise=lambda _: answer), [MIXED] * 500)
    assert ran.stop.reason is Reason.ENDPOINT
    assert len(ran.endpoint.requests) == 4
    assert set(ran.record.outcomes()) == {Outcome.DEFERRED}
    assert not any(one.sending.doubt for one in ran.record.settled.values())
    assert ran.took_s < 0.2


@pytest.mark.parametrize("answer", [Answer(302), Answer(401), Answer(failure=Failure.CERTIFICATE)])
def test_wrong_endpoint_ends_the_run_after_good_answers_too(answer: Answer) -> None:
    """A token that expires in the middle: what was delivered stays delivered."""
    ran = run(Endpoint(otherwise=lambda at: GOOD if at < 1 else answer), [DENIALS] * 500)
    assert ran.stop.reason is Reason.ENDPOINT
    assert set(ran.record.outcomes()) == {Outcome.DELIVERED, Outcome.DEFERRED}
    assert ran.took_s < 1.3


def test_403_after_good_answers_is_waited_out() -> None:
    """A limiter by address: no row is refused, none is exhausted."""
    forbidden = Answer(403)
    ran = run(Endpoint(otherwise=lambda at: forbidden if 1 < at < 30 else GOOD), [DENIALS] * 100, attempts=1)
    assert set(ran.record.outcomes()) == {Outcome.DELIVERED}
    assert not ran.stop


@pytest.mark.parametrize(("failure", "doubt"), [(Failure.RESET, DOUBT_WHOLE), (Failure.NOT_WRITTEN, 0)])
def test_reset_of_a_kept_connection_is_retried_at_once_and_costs_nothing(failure: Failure, doubt: int) -> None:
    """Even a row with a single attempt has it; there is doubt only if something was written."""
    ran = run(Endpoint({0: [Answer(failure=failure, reused=True), GOOD]}), [DENIALS], attempts=1)
    assert ran.ended(0) == (Outcome.DELIVERED, Outcome.OPEN, doubt, 2)
    first, second = ran.endpoint.requests
    assert second.at == pytest.approx(first.at + 0.1)


def test_only_one_reset_of_a_kept_connection_is_free() -> None:
    """The second one in a row counts and waits; a reset of a new connection does so the first time."""
    ran = run(Endpoint({1: [DROPPED], 2: [Answer(failure=Failure.RESET)]}), [DENIALS] * 30, attempts=2)
    assert ran.ended(1) == (Outcome.EXHAUSTED, Outcome.OPEN, DOUBT_WHOLE, 2 * 3)
    assert ran.ended(2) == (Outcome.EXHAUSTED, Outcome.OPEN, DOUBT_WHOLE, 2 * 2)


def test_stop_takes_no_new_row_and_lets_those_in_flight_settle() -> None:
    """What was sent is answered and recorded as it ended; the rest was never taken."""
    ran = run(Endpoint(takes_s=lambda _: 10.0), [DENIALS] * 50, stop_at=5.0)
    assert ran.stop.reason is Reason.ASKED
    assert ran.record.outcomes() == [Outcome.DELIVERED] * 4
    assert ran.taken == [0, 1, 2, 3]
    assert ran.took_s == pytest.approx(10.001)


def test_stop_drops_waits() -> None:
    """A row between two attempts is deferred at once, and what waits for its turn was never taken."""
    ran = run(Endpoint(otherwise=lambda _: Answer(503, retry_after="300")), [MIXED] * 50, stop_at=5.0)
    assert ran.record.outcomes() == [Outcome.DEFERRED] * 4
    assert ran.took_s == pytest.approx(5.0)
    slow = run(Endpoint(), [DENIALS] * 50, stop_at=5.0, max_rps=0.5)
    assert slow.took_s == pytest.approx(5.0)
    assert slow.record.outcomes() == [Outcome.DELIVERED] * len(slow.endpoint.requests) == [Outcome.DELIVERED] * 3


def test_stop_does_not_repeat_a_refused_row() -> None:
    """A refusal that comes while the pool stops leaves the denials open; the next run sends them."""
    ran = run(Endpoint({0: [NO]}, takes_s=lambda _: 10.0), [MIXED], stop_at=5.0)
    assert ran.ended(0) == (Outcome.REFUSED, Outcome.OPEN, 0, 1)


def test_stop_before_the_start_sends_nothing() -> None:
    """Not a row is taken."""
    ran = run(Endpoint(), [DENIALS] * 5, stop_at=0.0)
    assert ran.endpoint.requests == []
    assert not any(outcome is not Outcome.DEFERRED for outcome in ran.record.outcomes())


def test_nothing_is_dispatched_before_the_record_clears_it() -> None:
    """Rows beyond the durable mark wait for it; the endpoint itself asserts that each was cleared."""
    ran = run(Endpoint(), [DENIALS] * 30, mark=10, mark_moves_at=100.0)
    assert sorted(request.client for request in ran.endpoint.requests if request.at < 100) == list(range(10))
    assert ran.record.outcomes() == [Outcome.DELIVERED] * 30


@pytest.mark.parametrize("law", [Fixed(4), None])
def test_rows_are_taken_as_turns_come(law: Law | None) -> None:
    """Rows taken and not settled are in flight or between attempts: a plan of millions is not read ahead."""
    fresh: list[int] = []

    class Watching(Endpoint):
        async def attempt(self, client: int, sent: int) -> Answer:
            assert self.record is not None
            assert self.pool is not None
            seen.add(client)
            waiting = (seen | {client}) - set(self.record.settled) - self.open_clients
            taken_up_to.append(client + 1)
            fresh.append(max(taken_up_to) - len(self.record.settled) - len(waiting) - self.pool.limiter.in_flight)
            return await super().attempt(client, sent)

    seen, taken_up_to = set[int](), list[int]()
    scripts = {n: [ERROR, BUSY, GOOD] for n in range(0, 400, 5)}
    ran = run(Watching(scripts, takes_s=lambda client: 0.01 * (1 + client % 7)), [DENIALS] * 400, law=law)
    assert max(fresh) <= 0
    assert len(ran.record.settled) == 400


def test_no_row_is_taken_while_all_wait() -> None:
    """A pause of five minutes holds no row back in memory beyond those that were in flight."""
    ran = run(Endpoint(otherwise=lambda _: Answer(503, retry_after="300")), [DENIALS] * 50, stop_at=200.0)
    assert ran.taken == [0, 1, 2, 3]


def test_rows_that_wait_between_attempts_leave_their_places_to_others() -> None:
    """Retries do not slow the rest down, up to so many rows that wait at once."""
    scripts = {n: [ERROR, ERROR, ERROR, GOOD] for n in range(SPARE_WORKERS)}
    ran = run(Endpoint(scripts), [DENIALS] * 400)
    assert ran.took_s < 1.1 * 0.101 * (400 + 3 * SPARE_WORKERS) / 4
    assert set(ran.record.outcomes()) == {Outcome.DELIVERED}


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_as_many_in_flight_as_the_limit(limit: int) -> None:
    """It is reached, and not passed."""
    ran = run(Endpoint(), [DENIALS] * 200, law=Fixed(limit), max_concurrency=limit)
    assert ran.endpoint.most == ran.pool.limiter.seen.most_in_flight == limit


@pytest.mark.parametrize("ceiling", [1, 5, 40])
def test_an_adaptive_pool_grows_up_to_its_ceiling(ceiling: int) -> None:
    """From one, where the endpoint does as many as come; and never beyond."""
    ran = run(Endpoint(), [DENIALS] * 1000, law=None, max_concurrency=ceiling)
    assert ran.endpoint.most == ceiling
    assert ran.endpoint.requests[1].at >= 0.1
    assert set(ran.record.outcomes()) == {Outcome.DELIVERED}


def test_the_end_does_not_wait_for_turns_that_nobody_needs() -> None:
    """Workers that have no row left do not take theirs: at a slow rate that would last."""
    ran = run(Endpoint(), [DENIALS] * 3, max_rps=0.5)
    assert ran.took_s == pytest.approx(2 * 3, abs=0.2)


def test_retries_pass_the_gate_as_well() -> None:
    """The rate holds over first and repeated attempts together."""
    ran = run(Endpoint({n: [BUSY, NO, GOOD] for n in range(40)}), [MIXED] * 40, max_rps=20)
    times = sorted(request.at for request in ran.endpoint.requests)
    assert len(times) == 120
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= (times[last] - begin) * 20 + 2 + 1e-6


def test_retry_after_pauses_all_workers() -> None:
    """One answer that asks for a pause holds back everybody but who is on the way, and only for so long."""
    ran = run(Endpoint({5: [Answer(429, retry_after="30"), GOOD]}), [DENIALS] * 100)
    assert ran.pool.limiter.seen.pauses == 1
    paused = next(request.at for request in ran.endpoint.requests if request.client == 5) + 0.1
    assert not [request for request in ran.endpoint.requests if paused + 0.0011 < request.at < paused + 30 - 1e-6]
    assert set(ran.record.outcomes()) == {Outcome.DELIVERED}
    assert paused + 30 < ran.took_s < paused + 40


def test_same_seed_gives_the_same_run() -> None:
    """Time and chance come in from outside: nothing else decides."""
    scripts = {n: [ERROR, BUSY, GOOD] for n in range(0, 60, 2)}
    first, second = (run(Endpoint(scripts), [MIXED] * 60, seed=5) for _ in range(2))
    assert first.endpoint.requests == second.endpoint.requests
    assert run(Endpoint(scripts), [MIXED] * 60, seed=6).endpoint.requests != first.endpoint.requests


def test_bug_in_the_endpoint_comes_out() -> None:
    """What is no answer is not taken for one: the pool ends with the error."""

    class Broken(Endpoint):
        async def attempt(self, client: int, sent: int) -> Answer:
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        run(Broken(), [DENIALS] * 10)
    assert caught.group_contains(ZeroDivisionError)


# ---- the last pass -------------------------------------------------------------------------------------------------


def test_a_row_out_of_attempts_gets_one_more_pass_at_the_end() -> None:
    """What ailed it may be over by then; it is sent after everything else, and recorded once."""
    ran = run(Endpoint({3: [ERROR] * 5 + [GOOD]}), [DENIALS] * 200)
    assert ran.ended(3) == (Outcome.DELIVERED, Outcome.OPEN, DOUBT_WHOLE, 6)
    assert ran.counted() == {Outcome.DELIVERED: 200}
    assert ran.endpoint.requests[-1].client == 3
    assert ran.pool.progress.once_more == 1
    assert ran.told == ["changes.once_more"]


def test_without_such_rows_there_is_no_last_pass() -> None:
    """None is told of, and none counted."""
    ran = run(Endpoint({3: [ERROR] * 4 + [GOOD], 4: [NO]}), [DENIALS] * 50)
    assert (ran.pool.progress.once_more, ran.told) == (0, ["change.refused"])


def test_every_change_that_is_not_done_is_told_once() -> None:
    """As it settles: one that is tried once more at the end not before that."""
    ran = run(Endpoint({3: [ERROR] * 20, 4: [NO], 5: [NO]}), [DENIALS] * 50)
    assert ran.counted() == {Outcome.DELIVERED: 47, Outcome.REFUSED: 2, Outcome.EXHAUSTED: 1}
    assert ran.told == ["change.refused", "change.refused", "changes.once_more", "change.exhausted"]


def test_rows_met_by_an_empty_budget_are_sent_at_the_end() -> None:
    """Where most fail, repeating each at once is load that nobody needs; none is lost by it, or exhausted."""
    answers = [ERROR, GOOD]
    ran = run(
        Endpoint(dict.fromkeys(range(1, 600), answers), takes_s=lambda _: 0.02),
        [DENIALS] * 600,
        law=Fixed(50),
        max_concurrency=50,
    )
    assert ran.counted() == {Outcome.DELIVERED: 600}
    assert {ran.ended(row)[3] for row in range(1, 600)} == {2}
    assert 200 < ran.pool.progress.once_more < 500


def test_denials_that_ran_out_are_sent_alone_at_the_end() -> None:
    """The whole row was refused for good: it is not sent again."""
    ran = run(Endpoint({3: [NO] + [ERROR] * 5 + [GOOD]}), [MIXED] * 50)
    assert ran.ended(3) == (Outcome.REFUSED, Outcome.DELIVERED, DOUBT_DENIALS, 7)
    assert ran.endpoint.sent(3) == [MIXED] + [MIXED_DENIALS] * 6
    refused = run(Endpoint({3: [NO] + [ERROR] * 5 + [NO]}), [MIXED] * 50)
    assert refused.ended(3) == (Outcome.REFUSED, Outcome.REFUSED, DOUBT_DENIALS, 7)


def test_a_mixed_row_that_is_refused_in_the_last_pass_still_has_its_denials_sent() -> None:
    """A refused grant never strands a denial, at no time."""
    ran = run(Endpoint({3: [ERROR] * 5 + [NO, GOOD]}), [MIXED] * 50)
    assert ran.ended(3) == (Outcome.REFUSED, Outcome.DELIVERED, DOUBT_WHOLE, 7)


def test_a_stop_before_the_last_pass_leaves_its_rows_deferred() -> None:
    """They were to have one more pass, and the pool stopped first; each is recorded once."""
    ran = run(Endpoint({n: [ERROR] for n in (1, 2)}), [DENIALS] * 5000, attempts=1, stop_at=20.0)
    assert ran.ended(1) == ran.ended(2) == (Outcome.DEFERRED, Outcome.OPEN, DOUBT_WHOLE, 1)


def test_a_stop_in_the_last_pass_leaves_no_row_unrecorded() -> None:
    """Those whose turn has not come have been dispatched once: how they ended is known, and kept."""
    ran = run(
        Endpoint({n: [ERROR] if n % 2 else [NO, ERROR] for n in range(1, 50)}, takes_s=lambda _: 1.0),
        [MIXED] * 50,
        attempts=1,
        stop_at=27.0,
    )
    last_pass = ran.endpoint.requests[74:]
    assert 0 < len(last_pass) < 49, "the stop comes in the middle of it"
    assert len(ran.record.settled) == 50
    assert ran.ended(49) == (Outcome.DEFERRED, Outcome.OPEN, DOUBT_WHOLE, 1)
    assert ran.ended(48) == (Outcome.REFUSED, Outcome.DEFERRED, DOUBT_DENIALS, 2)


def test_only_so_many_rows_are_kept_for_the_last_pass() -> None:
    """An endpoint that fails more is no use to it; the others are exhausted at once."""
    more, answers = 20, [ERROR, GOOD]
    rows = 1 + MOST_ONCE_MORE + more
    ran = run(Endpoint(dict.fromkeys(range(1, rows), answers)), [DENIALS] * rows, attempts=1)
    assert ran.pool.progress.once_more == MOST_ONCE_MORE
    assert ran.counted() == {Outcome.DELIVERED: rows - more, Outcome.EXHAUSTED: more}
    assert all(ran.ended(row)[0] is Outcome.EXHAUSTED for row in range(rows - more, rows))


# ---- canaries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [NO, Answer(400), Answer(404)])
def test_canaries_that_are_all_refused_alike_stop_the_run(answer: Answer) -> None:
    """It is not the rows: nothing beyond them is sent, and it is known how they were refused."""
    ran = run(Endpoint(otherwise=lambda _: answer), [GRANTS] * 500, canaries=20)
    assert ran.stop.reason is Reason.CANARY
    assert "the first 20 rows were all refused alike" in ran.stop.why
    assert ran.pool.refused_alike is ran.record.settled[19].sending
    assert ran.pool.refused_alike.status == answer.status
    assert len(ran.endpoint.requests) == 20
    assert ran.counted() == {Outcome.REFUSED: 20}


@pytest.mark.parametrize(
    ("answer", "at"),
    [
        *((answer, at) for answer in (GOOD, Answer(200, Reply(2, "нет")), Answer(404)) for at in (0, 7, 19)),
        (ERROR, 7),
        (ERROR, 19),
    ],
)
def test_one_canary_that_ends_differently_is_enough(answer: Answer, at: int) -> None:
    """Delivered, refused otherwise, or given up: the endpoint tells rows apart, and the run goes on."""
    ran = run(Endpoint({at: [answer]}, otherwise=lambda _: NO), [GRANTS] * 100, canaries=20)
    assert not ran.stop
    assert ran.pool.refused_alike is None
    assert len(ran.record.settled) == 100


def test_canaries_go_one_at_a_time_and_the_rest_does_not() -> None:
    """Each is answered before the next one is sent; once one is delivered, there are no more canaries."""
    ran = run(Endpoint({n: [NO] for n in range(5)}), [GRANTS] * 100, canaries=20)
    times = [request.at for request in ran.endpoint.requests]
    assert [after - before for before, after in pairwise(times[:7])] == pytest.approx([0.101] * 6, abs=0.001)
    assert times[6] == times[7] == times[8] == times[9]
    assert ran.endpoint.most == 4


def test_the_first_rows_go_before_the_canaries_and_are_none() -> None:
    """Withdrawals are ours to send, whatever is answered: refused alike they stop nothing, and go side by side."""
    ran = run(Endpoint({n: [NO] for n in range(30)}), [DENIALS] * 30 + [GRANTS] * 100, first=30, canaries=20)
    assert not ran.stop
    assert max(request.at for request in ran.endpoint.requests if request.client < 30) < min(
        request.at for request in ran.endpoint.requests if request.client >= 30
    )
    assert ran.counted() == {Outcome.REFUSED: 30, Outcome.DELIVERED: 100}
    assert ran.took_s < 0.101 * (30 / 4 + 1 + 100 / 4 + 2)
    stopped = run(Endpoint({n: [GOOD] for n in range(30)}, lambda _: NO), [GRANTS] * 200, first=30, canaries=20)
    assert stopped.stop.reason is Reason.CANARY
    assert stopped.counted() == {Outcome.DELIVERED: 30, Outcome.REFUSED: 20}


@pytest.mark.parametrize("rows", [0, 1, 19])
def test_fewer_rows_than_canaries_do_not_stop(rows: int) -> None:
    """So few may well all be wrong."""
    ran = run(Endpoint(otherwise=lambda _: NO), [GRANTS] * rows, canaries=20)
    assert not ran.stop
    assert ran.counted() == ({Outcome.REFUSED: rows} if rows else {})


def test_a_mixed_row_whose_denials_are_delivered_is_no_refusal_of_all() -> None:
    """The endpoint knows the client: it only does not take the grant."""

    class TakesDenials(Endpoint):
        async def attempt(self, client: int, sent: int) -> Answer:
            answer = await super().attempt(client, sent)
            return answer if sent == MIXED_DENIALS else NO

    ran = run(TakesDenials(), [MIXED] * 50, canaries=20)
    assert not ran.stop
    assert {ran.ended(row)[:2] for row in range(50)} == {(Outcome.REFUSED, Outcome.DELIVERED)}
    refused = run(Endpoint(otherwise=lambda _: NO), [MIXED] * 50, canaries=20)
    assert refused.stop.reason is Reason.CANARY
    assert {refused.ended(row)[:2] for row in range(20)} == {(Outcome.REFUSED, Outcome.REFUSED)}


def test_a_canary_that_waits_is_waited_for() -> None:
    """Retries and pauses of one hold the others back; a canary that is out of attempts comes again at the end."""
    ran = run(Endpoint({0: [ERROR, BUSY, ERROR, GOOD], 1: [ERROR] * 5 + [GOOD]}), [GRANTS] * 50, canaries=20)
    assert ran.counted() == {Outcome.DELIVERED: 50}
    assert [request.client for request in ran.endpoint.requests[:5]] == [0, 0, 0, 0, 1]
    given_up = run(Endpoint({0: [NO], 1: [ERROR] * 5 + [GOOD]}), [GRANTS] * 50, canaries=20)
    assert given_up.counted() == {Outcome.REFUSED: 1, Outcome.DELIVERED: 49}
    assert [request.client for request in given_up.endpoint.requests][:6] == [0, 1, 1, 1, 1, 1]
    assert given_up.endpoint.requests[-1].client == 1


def test_a_stop_among_the_canaries_takes_no_further_one() -> None:
    """The one in flight settles."""
    ran = run(Endpoint(otherwise=lambda _: NO, takes_s=lambda _: 10.0), [GRANTS] * 50, canaries=20, stop_at=25.0)
    assert ran.stop.reason is Reason.ASKED
    assert ran.counted() == {Outcome.REFUSED: 3}


# ---- the end of the hours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [Fixed(4), None])
@pytest.mark.parametrize("takes_s", [0.1, 0.5, 3.0])
def test_no_row_is_taken_too_late_for_its_answer(takes_s: float, law: Law | None) -> None:
    """The last answer is there in time, those in flight settle, the rest is not taken; and the time is used."""
    ran = run(Endpoint(takes_s=lambda _: takes_s), [DENIALS] * 3000, until=60.0, law=law, max_concurrency=4)
    assert ran.stop.reason is Reason.DEADLINE
    assert 60.0 - 6 * takes_s - 1.5 < ran.took_s <= 60.0
    assert ran.counted() == {Outcome.DELIVERED: len(ran.taken)}
    assert 0 < len(ran.taken) < 3000


def test_retries_do_not_go_on_after_the_end_either() -> None:
    """A row between two attempts is deferred."""
    ran = run(Endpoint({0: [GOOD]}, lambda _: ERROR), [DENIALS] * 9000, until=20.0, attempts=50, max_outage_s=900)
    assert ran.stop.reason is Reason.DEADLINE
    assert ran.took_s <= 20.0
    assert {Outcome.DELIVERED, Outcome.DEFERRED} <= set(ran.counted())


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("canaries", [0, 20])
@pytest.mark.parametrize("until", [-100.0, 0.5])
def test_an_end_in_the_past_sends_nothing(until: float, canaries: int, first: int) -> None:
    """Nor does one so near that no answer would be there in time."""
    ran = run(Endpoint(), [DENIALS] * 50, until=until, canaries=canaries, first=first)
    assert ran.endpoint.requests == []
    assert ran.stop.reason is Reason.DEADLINE


def test_a_plan_that_is_done_in_time_does_not_wait_for_the_end() -> None:
    """It just ends."""
    ran = run(Endpoint(), [DENIALS] * 40, until=3600.0)
    assert not ran.stop
    assert ran.took_s < 2


# ---- cut off -------------------------------------------------------------------------------------------------------


def test_cut_off_leaves_what_is_in_flight_in_doubt_and_ends_at_once() -> None:
    """What was acknowledged stays delivered; nothing is lost, and nothing is said that is not known."""
    endpoint = Endpoint(takes_s=lambda client: 0.1 if client < 20 else 1000.0)
    ran = run(endpoint, [DENIALS] * 100, stop_at=5.0, cut_at=7.0)
    assert ran.took_s == pytest.approx(7.0)
    assert ran.counted() == {Outcome.DELIVERED: 20, Outcome.DEFERRED: 4}
    for row in range(20, 24):
        assert ran.ended(row) == (Outcome.DEFERRED, Outcome.OPEN, DOUBT_WHOLE, 1)
        sending = ran.record.settled[row].sending
        assert sending.doubt_at == pytest.approx(EPOCH_S + 7.0)
        assert (sending.status, sending.code) == (None, None)
        assert "cut off" in sending.message


def test_cut_off_denials_of_a_refused_row_leave_those_in_doubt() -> None:
    """The refusal of the whole is known; whether its denials were applied is not."""

    class Slow(Endpoint):
        async def attempt(self, client: int, sent: int) -> Answer:
            if sent == MIXED_DENIALS:
                self.takes_s = lambda _: 1000.0
            return await super().attempt(client, sent)

    ran = run(Slow({0: [NO, GOOD]}), [MIXED], stop_at=5.0, cut_at=7.0)
    assert ran.ended(0) == (Outcome.REFUSED, Outcome.DEFERRED, DOUBT_DENIALS, 2)
    assert ran.took_s == pytest.approx(7.0)


def test_cut_off_ends_a_canary_as_well() -> None:
    """One that is in flight is waited for no longer than any other row."""
    ran = run(Endpoint(takes_s=lambda _: 1000.0), [GRANTS] * 100, canaries=20, stop_at=5.0, cut_at=7.0)
    assert ran.took_s == pytest.approx(7.0)
    assert ran.ended(0) == (Outcome.DEFERRED, Outcome.OPEN, DOUBT_WHOLE, 1)


def test_cut_off_in_the_last_pass_ends_it() -> None:
    """Like any other."""
    ran = run(
        Endpoint({3: [ERROR]}, takes_s=lambda client: 1000.0 if client == 3 and virtual.now() > 5 else 0.1),
        [DENIALS] * 300,
        attempts=1,
        stop_at=20.0,
        cut_at=22.0,
    )
    assert ran.took_s == pytest.approx(22.0)
    assert ran.ended(3) == (Outcome.DEFERRED, Outcome.OPEN, DOUBT_WHOLE, 2)


def test_cut_off_when_all_has_settled_changes_nothing() -> None:
    """A drain that was quick enough."""
    ran = run(Endpoint(), [DENIALS] * 4000, stop_at=5.0, cut_at=35.0)
    assert ran.took_s < 6
    assert set(ran.counted()) == {Outcome.DELIVERED}


# ---- an endpoint that is gone --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "fails_s"),
    [
        *((answer, fails_s) for answer in (DOWN, BUSY) for fails_s in (0.001, 0.1, 2.0)),
        (ERROR, 0.1),
        (Answer(403), 0.001),
        (Answer(failure=Failure.RESET), 0.1),
        (TIMEOUT, 2.0),
    ],
)
def test_twenty_seconds_without_the_endpoint_exhaust_no_row(answer: Answer, fails_s: float) -> None:
    """It is left alone but for one probe at a time, and two seconds after it is back so are we."""
    gone = (5.0, 25.0)

    def takes_s(_: int) -> float:
        return fails_s if gone[0] <= virtual.now() < gone[1] else 0.1

    endpoint = Endpoint(otherwise=lambda at: answer if gone[0] <= at < gone[1] else GOOD, takes_s=takes_s)
    ran = run(endpoint, [DENIALS] * 3000, law=None, max_concurrency=40, attempts=3)
    assert ran.counted() == {Outcome.DELIVERED: 3000}
    assert not ran.stop
    assert ran.pool.limiter.seen.outages >= 1
    meanwhile = [request.at for request in endpoint.requests if gone[0] + 5 < request.at < gone[1]]
    assert all(after - before >= min(fails_s, 0.4) for before, after in pairwise(meanwhile))
    assert len(meanwhile) <= 25
    resumed = [request.at for request in endpoint.requests if request.at > gone[1]]
    assert len([at for at in resumed if at < gone[1] + fails_s + 2]) > 3, "it is not probed any more, but sent to"


def test_a_page_in_place_of_answers_exhausts_no_row_while_the_endpoint_is_gone() -> None:
    """A page of maintenance is no answer to the row, either: the rest is left to the next run."""
    ran = run(Endpoint(otherwise=lambda at: GOOD if at < 5 else HTML), [DENIALS] * 6000, law=None, max_outage_s=120)
    assert ran.stop.reason is Reason.OUTAGE
    assert set(ran.counted()) == {Outcome.DELIVERED, Outcome.DEFERRED}


def test_an_endpoint_that_never_answers_any_more_ends_the_run() -> None:
    """Timeouts: no more are in flight than before, and what was in flight is deferred and in doubt."""
    endpoint = Endpoint(
        otherwise=lambda at: GOOD if at < 10 else TIMEOUT, takes_s=lambda _: 0.1 if virtual.now() < 9.8 else 30.0
    )
    ran = run(endpoint, [DENIALS] * 6000, law=None, max_concurrency=16, max_outage_s=300)
    assert ran.stop.reason is Reason.OUTAGE
    assert "no good answer for 300 s; the last was: no answer in time" in ran.stop.why
    assert ran.took_s < 10 + 300 + 2 * 30 + 2
    assert endpoint.most <= 16
    assert set(ran.counted()) == {Outcome.DELIVERED, Outcome.DEFERRED}
    deferred = [one.sending for one in ran.record.settled.values() if one.outcome is Outcome.DEFERRED]
    assert {sending.doubt for sending in deferred} == {DOUBT_WHOLE}


@pytest.mark.parametrize("law", [Fixed(4), None])
@pytest.mark.parametrize("at", [0, 300, 999])
def test_a_row_that_alone_is_turned_away_does_not_keep_the_run_from_its_end(at: int, law: Law | None) -> None:
    """This one is left to the next run; the others are delivered meanwhile, nearly as fast as ever."""

    def last(endpoint: Endpoint) -> float:
        return max(request.at for request in endpoint.requests if request.client != at)

    endpoint, rest = Endpoint({at: [BUSY]}), Endpoint()
    ran = run(endpoint, [DENIALS] * 1000, law=law, max_outage_s=60)
    assert ran.counted() == {Outcome.DELIVERED: 999, Outcome.DEFERRED: 1}
    assert ran.ended(at)[2] == 0
    assert not ran.stop, "it is not the endpoint"
    assert ran.took_s < last(endpoint) + 60 + 30
    run(rest, [DENIALS] * 1000, law=law)
    assert last(endpoint) < last(rest) + 10


@pytest.mark.parametrize("ceiling", [4, 64])
@pytest.mark.parametrize("answer", [ERROR, TIMEOUT, DOWN, HTML])
@pytest.mark.parametrize("bad", [1, 10])
def test_rows_that_alone_fail_are_exhausted_and_do_not_end_the_run(bad: int, answer: Answer, ceiling: int) -> None:
    """Also when nothing else is left to send, so that there is no good answer any more: it is not the endpoint."""
    ran = run(
        Endpoint({n: [answer] for n in range(1000 - bad, 1000)}), [DENIALS] * 1000, law=None, max_concurrency=ceiling
    )
    assert ran.counted() == {Outcome.DELIVERED: 1000 - bad, Outcome.EXHAUSTED: bad}
    assert not ran.stop
    assert ran.took_s < 300


# ---- side by side --------------------------------------------------------------------------------------------------


Did = tuple[list[tuple[float, int, int]], list[Outcome], Reason | None]


def test_pools_share_nothing() -> None:
    """Three at once in one loop do what each does alone: one stops, one is paused, one repeats rows."""

    async def one(which: int) -> Did:
        scripts = [{9: [Answer(302)]}, {5: [Answer(429, retry_after="30"), GOOD]}, {3: [NO], 4: [TIMEOUT, GOOD]}]
        # No two answers come at once: their order would hang on the last digit of the time.
        endpoint = Endpoint(scripts[which], takes_s=lambda client: 0.1 + 0.0137 * (client % 7) + 0.00031 * client)
        record, stop = Record(1 << 30), Stop()
        world = World(lambda: EPOCH_S + virtual.now(), virtual.now, virtual.sleep, random.Random(which))
        settings = DeliverySettings.model_validate({"max_concurrency": 4})
        pool = Pool(endpoint, record, settings, Codes(), world, stop, law=Fixed(4))
        await pool.deliver((place, place, MIXED) for place in range(60))
        requests = sorted((round(request.at, 3), request.client, request.sent) for request in endpoint.requests)
        return requests, record.outcomes(), stop.reason

    async def all_of_them() -> list[Did]:
        return await asyncio.gather(*map(one, range(3)))

    alone = [virtual.run(one(which)) for which in range(3)]
    assert virtual.run(all_of_them()) == alone
    assert [reason for _, _, reason in alone] == [Reason.ENDPOINT, None, None], "each did what it was to show"
