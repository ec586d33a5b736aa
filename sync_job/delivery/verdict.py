"""What an answer means: delivered, refused for good, worth another try, or the end of the run. Pure.

`docs/architecture.md` has the table; a test holds every row of it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto

from sync_job.config import PREFIX
from sync_job.delivery.wire import Reply

LONGEST_PAUSE_S = 300.0  # of a Retry-After; a longer one is a maintenance window, and the next try asks again
_REDIRECTS = range(300, 400)
_REFUSALS = (400, 404, 405, 406, 413, 415, 422)
_BUSY = (429, 503)
_DOUBTFUL = (408, 500, 502, 504)


class Failure(Enum):
    """How a request ended without an answer."""

    TIMEOUT = auto()  # sent, and not answered in time
    RESET = auto()  # the connection broke after a byte was written
    NOT_WRITTEN = auto()  # the connection was closed before a byte was written
    NOT_CONNECTED = auto()  # no connection: refused, unreachable, unknown host, or not made in time
    CERTIFICATE = auto()  # the endpoint is not who it says, or speaks no TLS that is safe
    NOT_AUTHORISED = auto()  # not sent: the login or the endpoint's TLS does not accept who we are


@dataclass(frozen=True, slots=True)
class Answer:
    """What one attempt ended in: an HTTP status with the platform's reply if it parsed, or a failure."""

    status: int | None = None
    reply: Reply | None = None
    failure: Failure | None = None
    detail: str = ""
    retry_after: str | None = None
    reused: bool = False  # the connection had carried requests before


class Kind(Enum):
    """What to do about an answer."""

    DELIVERED = auto()
    REFUSED = auto()
    TRANSIENT = auto()
    GARBLED = auto()  # transient, and an answer that only a few tries are worth
    BUSY = auto()  # transient, and no attempt of the row's: overload never exhausts one
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of one answer; *doubt*: the request may have been applied, now or later."""

    kind: Kind
    why: str
    doubt: bool = False


_DELIVERED = Verdict(Kind.DELIVERED, "delivered")


@dataclass(frozen=True)
class Codes:
    """The platform's ErrorCodes that mean more than no."""

    retry: frozenset[int] = frozenset()
    not_found: frozenset[int] = frozenset()


def judge(answer: Answer, codes: Codes, *, good_before: bool) -> Verdict:
    """Return what *answer* means; *good_before*: the endpoint gave a good answer earlier in this run."""
    if answer.failure is not None:
        return _failed(answer.failure, answer.detail)
    status = answer.status or 0
    if status == 200:
        return _replied(answer.reply, codes)
    if status in _REDIRECTS:
        return Verdict(
            Kind.STOP,
            f"HTTP {status}: redirected to {answer.detail or 'elsewhere'}; "
            "[endpoint] base_url is wrong, or a login page is in between",
        )
    if status == 401:
        return Verdict(Kind.STOP, "HTTP 401: not authorised; check [endpoint.auth] and its token")
    if status == 407:
        return Verdict(
            Kind.STOP,
            f"HTTP 407: the proxy wants credentials; check [endpoint] proxy and {PREFIX}ENDPOINT__PROXY_AUTH",
        )
    if status == 403:
        if good_before:
            return Verdict(Kind.BUSY, "HTTP 403 after good answers: throttled by address, it seems")
        return Verdict(Kind.STOP, "HTTP 403: forbidden; check [endpoint.auth], or whether this address may call")
    if status in _BUSY:
        return Verdict(Kind.BUSY, f"HTTP {status}: busy")
    if status in _REFUSALS:
        return Verdict(Kind.REFUSED, f"HTTP {status}")
    if status in _DOUBTFUL or status == 425 or status >= 500:
        return Verdict(Kind.TRANSIENT, f"HTTP {status}", doubt=status != 425)
    if 400 <= status < 500:
        return Verdict(Kind.REFUSED, f"HTTP {status}")
    # Another 2xx says that something was accepted, and not what: no delivery, and nothing to rely on.
    return Verdict(Kind.GARBLED, f"HTTP {status}, which the platform never answers", doubt=True)


def _replied(reply: Reply | None, codes: Codes) -> Verdict:
    if reply is None:
        return Verdict(Kind.GARBLED, "HTTP 200 with a body that is no answer of the platform", doubt=True)
    if reply.code == 0:
        return _DELIVERED
    said = f"ErrorCode {reply.code}{f' ({reply.message})' if reply.message else ''}"
    if reply.code in codes.retry:
        return Verdict(Kind.TRANSIENT, said)
    if reply.code in codes.not_found:
        return Verdict(Kind.REFUSED, f"{said}: not found")
    return Verdict(Kind.REFUSED, said)


def _failed(failure: Failure, detail: str) -> Verdict:
    said = f": {detail}" if detail else ""
    match failure:
        case Failure.TIMEOUT:
            return Verdict(Kind.TRANSIENT, f"no answer in time{said}", doubt=True)
        case Failure.RESET:
            return Verdict(Kind.TRANSIENT, f"connection broken{said}", doubt=True)
        case Failure.NOT_WRITTEN:
            return Verdict(Kind.TRANSIENT, f"connection closed before anything was sent{said}")
        case Failure.NOT_CONNECTED:
            return Verdict(Kind.TRANSIENT, f"no connection{said}")
        case Failure.CERTIFICATE:
            return Verdict(Kind.STOP, f"no TLS that both sides accept; check [endpoint.tls]{said}")
        case Failure.NOT_AUTHORISED:
            return Verdict(Kind.STOP, f"not authorised{said}")


def pause_s(retry_after: str | None, now: datetime) -> float:
    """Return the seconds that a Retry-After, a number or an HTTP date, asks to wait: 0 to LONGEST_PAUSE_S."""
    if not retry_after:
        return 0.0
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_PAUSE_S)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year or an hour of many digits
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max(0.0, (when - now).total_seconds()), LONGEST_PAUSE_S)
