"""Tells people and monitors how runs end, as `[notify]` says: a webhook, and a ping that a monitor waits for.

Whatever goes wrong with it is a warning in the log: it ends no run, changes no exit code, and holds a run up by
`[notify] timeout_s` at most when it begins and when it has ended.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
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
_STATES = ("fine", "look", "act")


class Telling:
    """What is to be told of one run, from before it begins until it has ended."""

    def __init__(self, settings: Settings, kind: str) -> None:
        self._settings, self._kind = settings, kind
        self._started = time.time()
        self._summary: Summary | None = None
        self._earlier: Sequence[Summary] = ()
        self._dead: list[str] = []
        self._idle: Summary | None = None  # what is owed, of a run that found nothing to send

    def began(self, run: str) -> None:
        """Ping that the run has begun."""
        if pinged := self._ping("/start", f"{self._kind} {run}\n"):
            _post(self._settings, [("ping", pinged)])

    def reported(self, summary: Summary, earlier: Sequence[Summary]) -> None:
        """Note the report; it is told when the run has ended, which something may still go wrong with."""
        self._summary, self._earlier = summary, [one for one in earlier if one["started"] < summary["started"]]

    def recovered(self, run: str) -> None:
        """Note a run that had died, and told nobody."""
        self._dead.append(run)

    def idle(self, owed: Summary) -> None:
        """Note that nothing was to be sent, and so there is no report, and what is owed all the same."""
        self._idle = owed

    def ended(self, code: Exit = Exit.OK, why: str = "") -> None:
        """Tell how the run ended: by its report, and by what ended it, if an error did.

        Of a run that sent nothing, a monitor is told that waits for it; others of an alarm, or of its end.
        """
        owed = self._idle or (owing.read(self._settings) if self._summary is None else None)
        code = owing.code(owed, code)
        if self._summary is not None or code is not Exit.OK:
            self._tell(self._found(code, why, owed))
        elif self._idle is not None:
            # What a run before had to leave, somebody may still have to look at.
            self._tell(self._found(), mind=_told(self._settings).get(self._kind) == "act")

    def _found(self, code: Exit = Exit.OK, why: str = "", owed: Summary | None = None) -> Summary:
        target, now = self._settings.endpoint.target, time.time()
        found = notify.ended(self._kind, target, self._started, now, summary=self._summary, code=code, why=why)
        more = [f"{run} had died before its end; this run has finished it" for run in self._dead]
        if late := owing.reason(owed):
            found["withdrawals"], more = owed, [late, *more]
        return found | {"kind": self._kind, "reasons": found["reasons"] + more}

    def _tell(self, found: Summary, *, mind: bool = True) -> None:
        """Post what is due, and keep what was told; the webhook is told nothing without *mind*."""
        settings, told = self._settings, _told(self._settings)
        words = Words(settings.report.language, settings.run.timezone)
        before = told.get(self._kind)
        said = notify.message(found, self._earlier, words, before=before, config=settings.file)
        posts: list[tuple[str, Notice]] = []
        due = mind and (bool(self._dead) or notify.is_due(settings.notify.when, self._kind, said["state"], before))
        if settings.notify.webhook and due:
            posts.append(("webhook", webhook(settings, said)))
        ending = notify.ping(found["exit"], settings.notify.ping_attention)
        if ending is not None and (pinged := self._ping(ending, notify.lines(said))):
            posts.append(("ping", pinged))
        answers = _post(settings, posts)
        heard = not any(answer.why for (what, _), answer in zip(posts, answers, strict=True) if what == "webhook")
        if settings.notify.webhook and mind and heard and said["state"] != before:
            _remember(settings, told | {self._kind: said["state"]})

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


def recovered(run: str) -> None:
    """Note a run that had died, and was finished by the one that is under way."""
    if found := _UNDER_WAY.get():
        _safely(lambda: found.recovered(run))


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

    answers = asyncio.run(notices.post([notice for _, notice in posts], settings.notify.timeout_s))
    for (what, notice), said in zip(posts, answers, strict=True):
        if said.why:
            _log.warning("notify.failed", what=what, where=notice.host, why=said.why)
        else:
            _log.info("notify.sent", what=what, where=notice.host, status=said.status)
    return answers


def _safely(act: Callable[[], object]) -> None:
    """Do what has to do with telling alone; whatever it meets, the run is what it was."""
    try:
        act()
    except Exception as exc:  # noqa: BLE001 - a run that was delivered does not fail for what is said of it
        _log.warning("notify.failed", what="message", where="", why=f"a bug: {type(exc).__name__}")


def _told(settings: Settings) -> dict[str, State]:
    """Return the state that was told last, by the kind of the run; nothing where nobody knows."""
    try:
        found = json.loads(_memory(settings).read_bytes())
    except (OSError, ValueError):
        return {}
    return {kind: state for kind, state in found.items() if state in _STATES} if isinstance(found, dict) else {}


def _remember(settings: Settings, told: dict[str, State]) -> None:
    """Keep what was told; where that cannot be kept, it is told once more."""
    with suppress(StorageError):
        files.make_folder(settings.report.path)
        files.replace_json(_memory(settings), told)


def _memory(settings: Settings) -> Path:
    """Return the file that says what was told: beside the reports, for the state may be what is wrong."""
    digest = hashlib.sha256(settings.endpoint.target.encode()).hexdigest()[:12]
    return settings.report.path / f".told-{digest}.json"
