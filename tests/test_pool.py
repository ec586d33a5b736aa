"""The workers, with a scripted endpoint in virtual time: what is sent, what is repeated, and how each row ends."""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from sync_job.config import DeliverySettings
from sync_job.consent.channels import parse_letters
from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Outcome
from sync_job.delivery.pool import Pool, Reason, Sending, Stop, World
from sync_job.delivery.verdict import Answer, Codes, Failure
from sync_job.delivery.wire import Reply
from tests import virtual

EPOCH_S = 1_700_000_000.0
DENIALS, GRANTS, MIXED, MIXED_DENIALS = map(parse_letters, ("FF--", "TT--", "TF-F", "-F-F"))
Row = tuple[int, int, int]

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

    async def attempt(self, client: int, sent: int) -> Answer:
        """Answer after a while; two requests of one client at once are a fault of the pool."""
        assert client not in self._busy(), "two requests of one client in flight"
        assert self.record is None or client in self.record.cleared, "dispatched without being cleared"
        before = sum(request.client == client for request in self.requests)
        self.requests.append(Request(client, sent, virtual.now()))
        self._open.add(client)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(self.takes_s(client))
        self.in_flight -= 1
        self._open.remove(client)
        script = self.scripts.get(client)
        return script[min(before, len(script) - 1)] if script else self.otherwise(virtual.now())

    def __post_init__(self) -> None:
        self._open: set[int] = set()

    def _busy(self) -> set[int]:
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
    took_s: float

    def ended(self, row: int) -> tuple[Outcome, Outcome, int, int]:
        """Return outcome, that of the denials, doubt and attempts of *row*."""
        one = self.record.settled[row]
        return one.outcome, one.denials, one.sending.doubt, one.sending.attempts


def run(
    endpoint: Endpoint,
    sent: Sequence[int],
    *,
    stop_at: float | None = None,
    mark: int = 1 << 30,
    mark_moves_at: float = 0.0,
    codes: Codes | None = None,
    seed: int = 1,
    **settings: float,
) -> Ran:
    """Return what a pool did with a row for each of *sent*; row and client are the same number."""

    async def main() -> Ran:
        stop, record, taken = Stop(), Record(mark), list[int]()
        endpoint.record = record

        def rows() -> Iterator[Row]:
            for place, byte in enumerate(sent):
                taken.append(place)
                yield place, place, byte

        world = World(lambda: EPOCH_S + virtual.now(), virtual.now, virtual.sleep, random.Random(seed))
        chosen = DeliverySettings.model_validate({"max_concurrency": 4} | settings)
        pool = Pool(endpoint, record, chosen, codes or Codes(), world, stop)
        loop = asyncio.get_running_loop()
        if stop_at is not None:
            loop.call_later(stop_at, stop.ask, Reason.ASKED, "enough")
        if mark_moves_at:
            loop.call_later(mark_moves_at, record.moved.set)
        await pool.deliver(rows())
        assert endpoint.in_flight == 0
        assert pool.progress.settled == len(record.settled)
        assert pool.progress.requests == len(endpoint.requests)
        assert sum(pool.progress.outcomes.values()) == len(record.settled)
        return Ran(endpoint, record, stop, pool, taken, virtual.now())

    return virtual.run(main())


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
        ([NO, ERROR], Outcome.EXHAUSTED, DOUBT_DENIALS, 6),
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
def test_row_is_exhausted_after_its_attempts(attempts: int) -> None:
    """Where others are answered well, the row is given up and the pool goes on."""
    ran = run(Endpoint({3: [ERROR]}), [DENIALS] * 50, attempts=attempts)
    assert ran.ended(3) == (Outcome.EXHAUSTED, Outcome.OPEN, DOUBT_WHOLE, attempts)
    assert ran.record.outcomes().count(Outcome.DELIVERED) == 49
    assert not ran.stop


def test_garbled_answers_exhaust_a_row_after_three() -> None:
    """A page in the place of an answer is hardly ever cured by asking again."""
    ran = run(Endpoint({3: [HTML]}), [DENIALS] * 50, attempts=50)
    assert ran.ended(3) == (Outcome.EXHAUSTED, Outcome.OPEN, DOUBT_WHOLE, 3)


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
    assert ran.stop.reason is Reason.ENDPOINT
    assert "60 s" in ran.stop.why
    assert 60 <= ran.took_s < 60 + 31 + good_s
    assert ran.record.outcomes()[-4:] == [Outcome.DEFERRED] * 4
    assert set(ran.record.outcomes()) <= {Outcome.DELIVERED, Outcome.DEFERRED}
    assert len(ran.taken) == len(ran.record.settled) < 500


@pytest.mark.parametrize("answer", [ERROR, DOWN, TIMEOUT, HTML])
def test_endpoint_without_one_good_answer_ends_the_run(answer: Answer) -> None:
    """The first row that runs out of attempts says that it is not the row; nothing is exhausted."""
    ran = run(Endpoint(otherwise=lambda _: answer), [DENIALS] * 500)
    assert ran.stop.reason is Reason.ENDPOINT
    assert "not one good answer" in ran.stop.why
    assert set(ran.record.outcomes()) == {Outcome.DEFERRED}
    assert len(ran.taken) == 4


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
    assert ran.ended(1) == (Outcome.EXHAUSTED, Outcome.OPEN, DOUBT_WHOLE, 3)
    assert ran.ended(2) == (Outcome.EXHAUSTED, Outcome.OPEN, DOUBT_WHOLE, 2)


def test_stop_takes_no_new_row_and_lets_those_in_flight_settle() -> None:
    """What was sent is answered and recorded as it ended; the rest was never taken."""
    ran = run(Endpoint(takes_s=lambda _: 10.0), [DENIALS] * 50, stop_at=5.0)
    assert ran.stop.reason is Reason.ASKED
    assert ran.record.outcomes() == [Outcome.DELIVERED] * 4
    assert ran.taken == [0, 1, 2, 3]
    assert ran.took_s == pytest.approx(10.001)


def test_stop_drops_waits() -> None:
    """A row between two attempts is deferred at once, and one that waits for its turn is not sent."""
    ran = run(Endpoint(otherwise=lambda _: Answer(503, retry_after="300")), [MIXED] * 50, stop_at=5.0)
    assert ran.record.outcomes() == [Outcome.DEFERRED] * 4
    assert ran.took_s == pytest.approx(5.0)
    slow = run(Endpoint(), [DENIALS] * 50, stop_at=5.0, max_rps=0.5)
    assert slow.took_s == pytest.approx(5.0)
    assert slow.record.outcomes().count(Outcome.DELIVERED) == len(slow.endpoint.requests) == 3
    assert slow.record.outcomes().count(Outcome.DEFERRED) == 4


def test_stop_does_not_repeat_a_refused_row() -> None:
    """A refusal that comes while the pool stops leaves the denials open; the next run sends them."""
    ran = run(Endpoint({0: [NO]}, takes_s=lambda _: 10.0), [MIXED], stop_at=5.0)
    assert ran.ended(0) == (Outcome.REFUSED, Outcome.OPEN, 0, 1)


def test_stop_before_the_start_sends_nothing() -> None:
    """Not a row is taken."""
    ran = run(Endpoint(), [DENIALS] * 5, stop_at=0.0)
    assert ran.endpoint.requests == []
    assert not any(outcome is not Outcome.DEFERRED for outcome in ran.record.outcomes())


def test_first_reason_to_stop_stays() -> None:
    """What comes later is a consequence."""

    async def main() -> None:
        stop = Stop()
        assert not stop
        stop.ask(Reason.ENDPOINT, "first")
        stop.ask(Reason.ASKED, "second")
        await stop.wait()
        assert (stop.reason, stop.why) == (Reason.ENDPOINT, "first")

    virtual.run(main())


def test_nothing_is_dispatched_before_the_record_clears_it() -> None:
    """Rows beyond the durable mark wait for it; the endpoint itself asserts that each was cleared."""
    ran = run(Endpoint(), [DENIALS] * 30, mark=10, mark_moves_at=100.0)
    assert sorted(request.client for request in ran.endpoint.requests if request.at < 100) == list(range(10))
    assert ran.record.outcomes() == [Outcome.DELIVERED] * 30


def test_rows_are_taken_as_workers_come_free() -> None:
    """Never more rows taken than settled and workers together: a plan of millions is not read ahead."""
    ahead = []

    class Watching(Endpoint):
        async def attempt(self, client: int, sent: int) -> Answer:
            assert self.record is not None
            ahead.append(client + 1 - len(self.record.settled))
            return await super().attempt(client, sent)

    ran = run(Watching(takes_s=lambda client: 0.01 * (client % 7)), [DENIALS] * 200)
    assert max(ahead) <= 4
    assert len(ran.record.settled) == 200


@pytest.mark.parametrize("workers", [1, 3, 50])
def test_as_many_in_flight_as_workers(workers: int) -> None:
    """The limit is reached, and not passed."""
    assert run(Endpoint(), [DENIALS] * 200, max_concurrency=workers).endpoint.most == workers


def test_retries_pass_the_gate_as_well() -> None:
    """The rate holds over first and repeated attempts together."""
    ran = run(Endpoint({n: [BUSY, NO, GOOD] for n in range(40)}), [MIXED] * 40, max_rps=20)
    times = sorted(request.at for request in ran.endpoint.requests)
    assert len(times) == 120
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= (times[last] - begin) * 20 + 2 + 1e-6


def test_retry_after_pauses_all_workers() -> None:
    """One answer that asks for a pause holds back everybody, and only for so long."""
    ran = run(Endpoint({5: [Answer(429, retry_after="30"), GOOD]}), [DENIALS] * 100)
    paused = next(request.at for request in ran.endpoint.requests if request.client == 5) + 0.1
    assert not [request for request in ran.endpoint.requests if paused + 1e-6 < request.at < paused + 30 - 1e-6]
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
