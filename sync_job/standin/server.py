"""The stand-in's HTTP side: what is answered to a request, and what a fault does to its connection.

`respond` is the hot path: a few thousand requests a second on one core. What a body means is left to `bodies.py`,
what it changes to `platform.py`, which request meets which fault to `faults.py`, how many are served to `capacity.py`,
who gets a token to `logins.py`.
"""

import asyncio
import json
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Unpack
from weakref import WeakKeyDictionary

from aiohttp import web

from sync_job.standin import answers, bodies
from sync_job.standin.capacity import Counts, Workers
from sync_job.standin.contract import Answer, BindError, MediaTypeError, Update
from sync_job.standin.faults import Fault
from sync_job.standin.logins import REFUSED
from sync_job.standin.options import Capacity, Options
from sync_job.standin.platform import Platform
from sync_job.standin.record import keep

ENDPOINT = "/api/client/ClientUpdateCommunication"
STATE = "/standin/state"
REQUESTS = "/standin/requests"
LOGIN = "/standin/login"
TOKENS = "/managerlogin"  # in lower case, as paths are told apart here

_ENDPOINT_LOWER = ENDPOINT.lower()
_PAGE = "<!DOCTYPE html><html><head><title>Техническое обслуживание</title></head><body></body></html>"
# Requests in flight when the stand-in stops have this long to be answered; stalled ones are cut off.
_SHUTDOWN_S = 0.1
_BACKLOG = 1024
_LINGER_ZERO = struct.pack("ii", 1, 0)

_STATUSES = {
    Fault.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Fault.UNAVAILABLE_RETRY_AFTER: HTTPStatus.SERVICE_UNAVAILABLE,
    Fault.TOO_MANY: HTTPStatus.TOO_MANY_REQUESTS,
    Fault.TOO_MANY_RETRY_AFTER: HTTPStatus.TOO_MANY_REQUESTS,
    Fault.ERROR_BEFORE: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.ERROR_AFTER: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.REDIRECT: HTTPStatus.FOUND,
    Fault.UNAUTHORISED: HTTPStatus.UNAUTHORIZED,
    Fault.FORBIDDEN: HTTPStatus.FORBIDDEN,
}
_RETRY_AFTER = frozenset({Fault.UNAVAILABLE_RETRY_AFTER, Fault.TOO_MANY_RETRY_AFTER})
_APPLIED = frozenset({None, Fault.RESET_AFTER, Fault.STALL, Fault.ERROR_AFTER})


class Endpoint:
    """Answers requests under any base path, and outlives the sockets it is served on.

    `requests` counts the POSTs to the endpoint, whatever became of them; it is their number in a fault schedule.
    What a client that gave up had asked for is applied all the same, when its time has come.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.platform: Platform = options.platform()
        self.requests = 0
        self.counts = Counts()
        self.logins = options.logins()
        self.login_requests = 0
        self._workers = Workers(options.service(), clock=time.monotonic, call_later=_call_later, seed=options.seed)
        self._rate = options.rate(time.monotonic)
        self._bar = options.bar(time.monotonic)
        self._schedule = options.schedule()
        self._answered: WeakKeyDictionary[asyncio.Transport, int] = WeakKeyDictionary()

    def capacity(self, **changed: Unpack[Capacity]) -> None:
        """Go on with these options, from within the event loop.

        Raises:
            ValueError: when one makes no sense; then nothing has changed.
        """
        self.options = replace(self.options, **changed)
        self._workers.change(self.options.service())
        self._rate.change(self.options.max_rps, self.options.burst)

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; cancelled when the client has gone."""
        path = request.path.lower()
        if path.endswith(_ENDPOINT_LOWER):
            if request.method != "POST":
                return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})
            self.counts.enter()
            try:
                response = await self._update(request)
            finally:
                self.counts.leave()
            if self.options.requests_per_connection:
                await self._count(request, response)
            return response
        if path.endswith(TOKENS) and request.method == "POST" and self.logins:
            return await self._log_in(request)
        if request.method == "GET":
            return self._show(path)
        return web.Response(status=HTTPStatus.NOT_FOUND)

    async def _log_in(self, request: web.BaseRequest) -> web.Response:
        """Answer a request for a token; `login_requests` counts them, as `requests` does updates."""
        self.login_requests += 1
        form = await request.post()
        number = self.login_requests
        planned = self.options.login_statuses
        status = planned[number - 1] if number <= len(planned) else 0
        if status:
            headers = {"Retry-After": str(self.options.retry_after_s)} if status in {429, 503} else {}
            return web.Response(status=status, headers=headers | ({"Location": LOGIN} if 300 <= status < 400 else {}))
        given = self.logins.grant({name: value for name, value in form.items() if isinstance(value, str)})
        return web.Response(
            text=json.dumps(given or REFUSED, ensure_ascii=False),
            status=HTTPStatus.OK if given else HTTPStatus.BAD_REQUEST,
            content_type="application/json",
            charset="utf-8",
        )

    def _authorised(self, authorization: str | None) -> bool:
        token = self.options.bearer_token
        if token is None and not self.logins:
            return True
        return (token is not None and authorization == f"Bearer {token}") or self.logins.admits(authorization)

    def _show(self, path: str) -> web.Response:
        if path.endswith(STATE):
            return web.Response(text=self.platform.csv(), content_type="text/csv", charset="utf-8")
        if path.endswith(REQUESTS):
            counts = {"requests": self.requests, "entries": self.platform.entries}
            counts |= {**asdict(self.counts), "turned_away": self.counts.turned_away}
            return web.Response(text=json.dumps(counts), content_type="application/json", charset="utf-8")
        if path.endswith(LOGIN):
            return _html()
        return web.Response(status=HTTPStatus.NOT_FOUND)

    async def _update(self, request: web.BaseRequest) -> web.Response:
        self.requests += 1
        number = self.requests
        shut_out = self._shut_out(request)
        body = await request.read()
        if shut_out is not None:
            await asyncio.sleep(self._schedule.delay_s(number))
            return shut_out
        if not self._authorised(request.headers.get("Authorization")):
            return _unauthorised()
        try:
            update = bodies.parse(request.content_type, body)
        except MediaTypeError:
            return web.Response(status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        except BindError:
            return web.Response(status=HTTPStatus.BAD_REQUEST)
        fault = self._schedule.choose(number, update.client)
        answer = await self._settle(update, fault, self._schedule.delay_s(number))
        if answer is None:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE)
        if fault is None or fault is Fault.REFUSE:
            media = answers.negotiate(request.headers.get("Accept", "*/*"))
            return web.Response(body=answers.write(answer, media), headers={"Content-Type": f"{media}; charset=utf-8"})
        return await self._spoil(request, fault)

    def _shut_out(self, request: web.BaseRequest) -> web.Response | None:
        """Return what is answered to one request too many, before anything of it is looked at; none lets it in."""
        if self._bar.stops(request.remote or ""):
            self.counts.barred += 1
            return web.Response(status=HTTPStatus.FORBIDDEN)
        if self._rate.admits():
            return None
        self.counts.over_rate += 1
        wait = self.options.rate_retry_after_s
        return web.Response(status=self.options.rate_status, headers={} if wait is None else {"Retry-After": str(wait)})

    async def _settle(self, update: Update, fault: Fault | None, delay_s: float) -> Answer | None:
        """Return the answer when the turn of *update* has come, *delay_s* later or more; none for a full queue."""
        if not delay_s and not self.options.workers:
            return self._serve(update, fault)
        # Timers, not a sleep: a client that gives up cancels this coroutine, and its update still takes its turn.
        settled: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        if delay_s:
            _call_later(delay_s, partial(self._take, update, fault, settled))
        else:
            self._take(update, fault, settled)
        return await settled

    def _take(self, update: Update, fault: Fault | None, settled: asyncio.Future[Answer | None]) -> None:
        if not self._workers.take(lambda: _set(settled, self._serve(update, fault))):
            self.counts.queue_full += 1
            _set(settled, None)

    def _serve(self, update: Update, fault: Fault | None) -> Answer:
        """Return the answer, with the update applied if the fault lets it be."""
        self.counts.served += 1
        if fault in _APPLIED:
            return self.platform.apply(update)
        if fault is Fault.LATE:
            _call_later(self.options.late_s, partial(self.platform.apply, update))
        return self.options.refusal

    async def _spoil(self, request: web.BaseRequest, fault: Fault) -> web.Response:
        """Do to the connection what *fault* says, or return the answer that it gives."""
        if fault in _STATUSES:
            if fault is Fault.UNAUTHORISED:
                return _unauthorised()
            headers = {"Location": LOGIN} if fault is Fault.REDIRECT else {}
            if fault in _RETRY_AFTER:
                headers["Retry-After"] = str(self.options.retry_after_s)
            return web.Response(status=_STATUSES[fault], headers=headers)
        if fault is Fault.GARBAGE:
            return _html()
        if fault in {Fault.RESET_BEFORE, Fault.RESET_AFTER}:
            _reset(request)
        # Nothing is answered: the coroutine ends by being cancelled, when the connection does or the stand-in stops.
        await asyncio.get_running_loop().create_future()
        raise AssertionError("a future that nobody sets is done")

    async def _count(self, request: web.BaseRequest, response: web.Response) -> None:
        """Close the connection behind the last answer that it may carry."""
        transport = request.transport
        if transport is None:
            return
        count = self._answered.get(transport, 0) + 1
        self._answered[transport] = count
        if count < self.options.requests_per_connection:
            return
        if self.options.announce_close:
            response.force_close()
            return
        await response.prepare(request)
        await response.write_eof()
        transport.close()


def _call_later(delay_s: float, call: Callable[[], object]) -> None:
    # The loop is known only when a request is there: an endpoint is made before it, and in another thread.
    asyncio.get_running_loop().call_later(delay_s, call)


def _set(settled: asyncio.Future[Answer | None], answer: Answer | None) -> None:
    if not settled.done():  # The client has given up.
        settled.set_result(answer)


def _html() -> web.Response:
    return web.Response(text=_PAGE, content_type="text/html", charset="utf-8")


def _unauthorised() -> web.Response:
    return web.Response(status=HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})


def _reset(request: web.BaseRequest) -> None:
    transport = request.transport
    if transport is not None:
        # Without lingering the kernel sends a reset instead of an orderly end.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()


@contextmanager
def _stop_signal() -> Iterator[asyncio.Event]:
    """Give an event that SIGINT and SIGTERM set, instead of what they did before."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    watched = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # not on Windows, not beside the main thread
            loop.add_signal_handler(number, stopped.set)
            watched.append(number)
    try:
        yield stopped
    finally:
        for number in watched:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def listening(endpoint: Endpoint, host: str, port: int) -> AsyncIterator[int]:
    """Serve *endpoint* on *host* and *port* (0: any that is free), and give the port.

    At the end the socket and all connections are closed: idle ones at once, the others after a tenth of a second.

    Raises:
        OSError: when the port is taken.
    """
    server = web.Server(
        endpoint.respond,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=endpoint.options.keepalive_s,
    )
    runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def recording(endpoint: Endpoint, path: Path | None) -> AsyncIterator[None]:
    """Keep the state in *path*, if there is one, with a last replacement at the end."""
    if path is None:
        yield
        return
    stopping = asyncio.Event()
    keeper = asyncio.create_task(keep(endpoint.platform, path, endpoint.options.record_every_s, stopping))
    try:
        yield
    finally:
        stopping.set()
        await keeper


async def serve(
    options: Options,
    port: int,
    host: str = "127.0.0.1",
    record: Path | None = None,
    *,
    ready: Callable[[str], None] | None = None,
) -> Platform:
    """Serve until SIGINT, SIGTERM or a cancellation, and return the platform as it then is.

    *ready* is called with the base URL once requests are taken. *record* comes before the one of *options*.
    Signals are watched only in a process's main thread, where they can be.

    Raises:
        OSError: when the port is taken or the record cannot be written.
    """
    endpoint = Endpoint(options)
    async with recording(endpoint, record or options.record), listening(endpoint, host, port) as taken:
        with _stop_signal() as stopped:
            if ready is not None:
                ready(f"http://{host}:{taken}")
            await stopped.wait()
    return endpoint.platform
