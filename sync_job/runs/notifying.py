"""Tells people and monitors how runs end, as `[notify]` says: a webhook, and a ping that a monitor waits for.

Whatever goes wrong with it is a warning in the log: it ends no run, changes no exit code, and holds a run up by
`[notify] timeout_s` at most when it begins and when it has ended.
"""

import asyncio
import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from sync_job.config import PREFIX, Settings
from sync_job.errors import BusyError, ConfigError, ConsentSyncError, Exit, StorageError, exit_of
from sync_job.ledger import files
from sync_job.report import notify
from sync_job.report.counts import Summary
from sync_job.report.headline import DRAINS, State
from sync_job.report.words import Words
from sync_job.runs import owing

if TYPE_CHECKING:
    from sync_job.delivery.notices import Notice, Said

_log = structlog.get_logger()
_LOOKED_THROUGH = 30  # runs back, for since when an export is the same
_MOST_DEAD = 10  # runs that nobody was told of, if nobody ever is
_STATES = ("fine", "look", "act")


class Telling:
    """What is to be told of one run, from before it begins until it has ended."""

    def __init__(self, settings: Settings, kind: str) -> None:
        self._settings, self._kind = settings, kind
        self._started = time.time()
        self._summary: Summary | None = None
        self._earlier: Sequence[Summary] = ()
        self._idle: Summary | None = None  # what is owed, of a run that found nothing to send

    def began(self, run: str) -> None:
        """Ping that the run has begun."""
        if pinged := self._ping("/start", f"{self._kind} {run}\n"):
            _post(self._settings, [("ping", pinged)])

    def reported(self, summary: Summary, earlier: Sequence[Summary]) -> None:
        """Note the report; it is told when the run has ended, which something may still go wrong with."""
        self._summary, self._earlier = summary, [one for one in earlier if one["started"] < summary["started"]]

    def idle(self, owed: Summary) -> None:
        """Note that nothing was to be sent, and so there is no report, and what is owed all the same."""
        self._idle = owed

    def ended(self, code: Exit = Exit.OK, why: str = "") -> None:
        """Tell how the run ended: by its report, and by what ended it, if an error did.

        Of a run that sent nothing, a monitor is told that waits for it; others of an alarm, or of its end.
        """
        owed = self._idle or (owing.read(self._settings) if self._summary is None else None)
        code = owing.code(owed, code)
        memory, failed = _remembered(self._settings), code is not Exit.OK
        if self._summary is not None or failed:
            self._tell(self._found(code, why, owed, memory.died), memory)
        elif self._idle is not None or memory.died:
            # What a run before had to leave, somebody may still have to look at.
            self._tell(self._found(died=memory.died), memory, mind=memory.told.get(self._kind) == "act")

    def _found(
        self, code: Exit = Exit.OK, why: str = "", owed: Summary | None = None, died: Sequence[str] = ()
    ) -> Summary:
        target, now = self._settings.endpoint.target, time.time()
        found = notify.ended(self._kind, target, self._started, now, summary=self._summary, code=code, why=why)
        more = [f"{run} had died before its end; what it left has been finished" for run in died]
        if late := owing.reason(owed):
            found["withdrawals"], more = owed, [late, *more]
        return found | {"kind": self._kind, "reasons": found["reasons"] + more}

    def _tell(self, found: Summary, memory: "_Memory", *, mind: bool = True) -> None:
        """Post what is due, and keep what was told; without *mind* the webhook is told of dead runs alone."""
        settings = self._settings
        words = Words(settings.report.language, settings.run.timezone)
        before = memory.told.get(self._kind)
        said = notify.message(found, self._earlier, words, before=before, config=settings.file)
        posts: list[tuple[str, Notice]] = []
        due = bool(memory.died) or (mind and notify.is_due(settings.notify.when, self._kind, said["state"], before))
        if settings.notify.webhook and due:
            posts.append(("webhook", webhook(settings, said)))
        ending = notify.ping(found["exit"], settings.notify.ping_attention)
        if ending is not None and (pinged := self._ping(ending, notify.lines(said))):
            posts.append(("ping", pinged))
        answers = _post(settings, posts)
        taken = {what: not answer.why for (what, _), answer in zip(posts, answers, strict=True)}
        heard = taken.get("webhook", True)
        if settings.notify.webhook and mind and heard and said["state"] != before:
            _remember(settings, told={self._kind: said["state"]})
        if memory.died and taken.get("webhook" if settings.notify.webhook else "ping"):
            _remember(settings, heard_of=memory.died)

    def _ping(self, more: str, text: str) -> "Notice | None":
        """Return the ping of this kind of run, if it is one that pings."""
        pings = self._settings.notify.ping and self._kind in self._settings.notify.ping_kinds
        return ping(self._settings, more, text) if pings else None


_UNDER_WAY: ContextVar[Telling | None] = ContextVar("_UNDER_WAY", default=None)


@contextmanager
def telling(settings: Settings, kind: str) -> Iterator[None]:
    """Tell how what is done in the block ends: by its report, or by the error that ends it.

    A drain that finds the lock taken says nothing: whoever holds it sends what is owed.
    """
    if not (settings.notify.webhook or settings.notify.ping):
        yield
        return
    mine = Telling(settings, kind)
    token = _UNDER_WAY.set(mine)
    try:
        yield
    except BaseException as exc:
        if not (isinstance(exc, BusyError) and kind in DRAINS):
            # What a bug says of itself may name anybody.
            ours = isinstance(exc, ConsentSyncError) and exc.exit_code is not Exit.BUG
            code, why = exit_of(exc), str(exc) if ours else type(exc).__name__
            _safely(lambda: mine.ended(code, why))
        raise
    else:
        _safely(mine.ended)
    finally:
        _UNDER_WAY.reset(token)


def began(run: str) -> None:
    """Tell that a run begins."""
    if found := _UNDER_WAY.get():
        _safely(lambda: found.began(run))


def reported(summary: Summary, earlier: Callable[[int], Sequence[Summary]]) -> None:
    """Note the report of the run that is under way; *earlier* returns the last so many summaries."""
    if found := _UNDER_WAY.get():
        _safely(lambda: found.reported(summary, earlier(_LOOKED_THROUGH)))


def recovered(settings: Settings, run: str) -> None:
    """Note a run that had died: the first command that tells people anything tells of it, this one or a later one."""
    _safely(lambda: _remember(settings, died=run))


def idle(owed: Summary) -> None:
    """Note that nothing was to be sent, and what is owed all the same (`owing.figures`)."""
    if found := _UNDER_WAY.get():
        _safely(lambda: found.idle(owed))


def elsewhere(settings: Settings, kind: str, why: str) -> None:
    """Tell of a command that sends nothing, because of another that holds the lock, or of a pause, which *why* says.

    People hear of it only if something is past its limit. Otherwise a monitor that waits for this kind of run hears
    that whoever holds the lock does what it would have done; of a pause it hears nothing.
    """
    if owing.reason(owing.read(settings)):
        if settings.notify.webhook or settings.notify.ping:
            _safely(lambda: Telling(settings, kind).ended(Exit.BUSY if why else Exit.OK, why))
        return
    if not why and settings.notify.ping and kind in settings.notify.ping_kinds:
        found = ping(settings, "", f"{kind}: the run that is under way sends what is owed\n")
        _safely(lambda: _post(settings, [("ping", found)]))


def webhook(settings: Settings, said: Summary) -> "Notice":
    """Return the webhook's notice of a message."""
    from sync_job.delivery import notices

    url = settings.notify.webhook
    body = notify.slack(said) if settings.notify.format == "slack" else said
    assert url is not None  # noqa: S101 - whoever calls has looked
    return notices.Notice(url.get_secret_value(), json.dumps(body, ensure_ascii=False).encode(), "application/json")


def ping(settings: Settings, more: str, text: str) -> "Notice":
    """Return a ping of the monitor, with *more* behind its address."""
    from sync_job.delivery import notices

    url = settings.notify.ping
    assert url is not None  # noqa: S101 - whoever calls has looked
    return notices.Notice(notices.behind(url.get_secret_value(), more), text.encode(), "text/plain; charset=utf-8")


def try_(settings: Settings) -> list[Summary]:
    """Post a test to what is configured, and return what came back.

    Raises:
        ConfigError: when nothing is.
    """
    now = time.time()
    posts: list[tuple[str, Notice]] = []
    if settings.notify.webhook:
        posts.append(("webhook", webhook(settings, notify.trial(settings.endpoint.target, now))))
    if settings.notify.ping:
        posts.append(("ping", ping(settings, "", "a test\n")))
    if not posts:
        raise ConfigError(
            f"Nobody is told of runs: set {PREFIX}NOTIFY__WEBHOOK or {PREFIX}NOTIFY__PING, or the same with _FILE."
        )
    answers = _post(settings, posts)
    return [
        {"what": what, "where": notice.host, "status": said.status, "why": said.why, "answer": said.body}
        for (what, notice), said in zip(posts, answers, strict=True)
    ]


def _post(settings: Settings, posts: "Sequence[tuple[str, Notice]]") -> "list[Said]":
    """Post all at once, and log what came of each."""
    if not posts:
        return []
    from sync_job.delivery import notices

    with _sigterm_waits():
        answers = asyncio.run(notices.post([notice for _, notice in posts], settings.notify.timeout_s))
    for (what, notice), said in zip(posts, answers, strict=True):
        if said.why:
            _log.warning("notify.failed", what=what, where=notice.host, why=said.why)
        else:
            _log.info("notify.sent", what=what, where=notice.host, status=said.status)
    return answers


@contextmanager
def _sigterm_waits() -> Iterator[None]:
    """Let a SIGTERM end the process after the block: within it, a library might take the exception for one of its own.

    The block has an end of its own, after `[notify] timeout_s` at the latest.
    """
    ends = signal.getsignal(signal.SIGTERM)
    if not callable(ends) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, ends)
        if came:
            ends(came[0], None)


def _safely(act: Callable[[], object]) -> None:
    """Do what has to do with telling alone; whatever it meets, the run is what it was."""
    try:
        act()
    except Exception as exc:  # noqa: BLE001 - a run that was delivered does not fail for what is said of it
        _log.warning("notify.failed", what="message", where="", why=f"a bug: {type(exc).__name__}")


@dataclass(frozen=True)
class _Memory:
    """What people were told last, by the kind of run, and which dead runs they have not been told of."""

    told: dict[str, State]
    died: list[str]


def _remembered(settings: Settings) -> _Memory:
    """Return what is remembered; nothing if it cannot be read."""
    try:
        found = json.loads(_memory(settings).read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        return _Memory({}, [])
    died = found.pop("died", [])
    told = {kind: state for kind, state in found.items() if state in _STATES}
    return _Memory(told, [str(run) for run in died] if isinstance(died, list) else [])


def _remember(
    settings: Settings, *, told: Mapping[str, State] | None = None, died: str = "", heard_of: Sequence[str] = ()
) -> None:
    """Change what is remembered; if that cannot be kept, people are told once more."""
    before = _remembered(settings)
    dead = [run for run in before.died if run not in {died, *heard_of}] + ([died] if died else [])
    with suppress(StorageError):
        files.make_folder(settings.report.path)
        kept = {"died": dead[-_MOST_DEAD:]} if dead else {}
        files.replace_json(_memory(settings), {**before.told, **(told or {}), **kept})


def _memory(settings: Settings) -> Path:
    """Return the file that says what was told: beside the reports, for the state may be what is wrong."""
    digest = hashlib.sha256(settings.endpoint.target.encode()).hexdigest()[:12]
    return settings.report.path / f".told-{digest}.json"
