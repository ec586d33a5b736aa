"""A look at the endpoint that changes nothing there: its name, a connection, its certificate, one answer.

The request is a HEAD of the base URL, without body, token or any header of ours: it states nothing of anybody. It goes
the way that updates go, through `[endpoint] proxy` and with `[endpoint.tls]`, step by step, so that what fails has a
name. The standard library makes it, because aiohttp tells these steps apart only by what it raises.
"""

import base64
import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from sync_job.config import EndpointSettings
from sync_job.delivery import endpoint, tls
from sync_job.delivery.auth import Token

TIMEOUT_S = 10.0


@dataclass
class Reached:
    """How far the look came; *failed* is the step that did not succeed and *why* what was said of it, "" for none.

    Times are epoch seconds: when the certificate *expires*, what the answer says the time is (*date*), and between
    which two moments it came.
    """

    addresses: tuple[str, ...] = ()
    connected: bool = False
    tls: str = ""
    expires: float | None = None
    status: int | None = None
    date: float | None = None
    asked: float = 0.0
    answered: float = 0.0
    failed: str = ""
    why: str = ""


def reach(settings: EndpointSettings) -> Reached:
    """Return how far a harmless request comes; nothing of the network raises.

    Raises:
        ConfigError: when [endpoint.tls] names files that cannot be used.
    """
    context = tls.context(settings)
    found = Reached()
    try:
        _resolve(settings, found)
        connection = _connect(settings, found, context)
        try:
            _ask(settings, connection, found)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as exc:
        found.failed = found.failed or "request"
        found.why = _words(exc)
    return found


async def log_in(settings: EndpointSettings) -> str:
    """Ask for a token as the first request of a run would, and return why there is none; "" where there is one.

    Raises:
        ConfigError: when [endpoint.tls] names files that cannot be used.
    """
    async with endpoint.connected(settings, max_concurrency=1, timeout_s=TIMEOUT_S) as platform:
        if platform.tokens is None:
            return ""
        found = await platform.tokens.obtain()
        return "" if isinstance(found, Token) else found.detail or f"HTTP {found.status}"


def _first_hop(settings: EndpointSettings) -> tuple[str, int]:
    """Return host and port that are connected to: the proxy's, where there is one."""
    parts = urlsplit(settings.proxy or settings.base_url)
    return parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]


def _resolve(settings: EndpointSettings, found: Reached) -> None:
    host, port = _first_hop(settings)
    found.failed = "name"
    said = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found.addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in said))
    found.failed = ""


def _connect(settings: EndpointSettings, found: Reached, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """Return a connection that is open, through the proxy and with TLS where these are to be."""
    host, port = _first_hop(settings)
    parts = urlsplit(settings.base_url)
    made = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    if settings.proxy and context is not None:
        made.set_tunnel(parts.hostname or "", parts.port or 443, headers=_for_proxy(settings))
    found.failed = "connection"
    try:
        made.connect()
    except OSError as exc:
        if "Tunnel connection failed" in str(exc):
            found.connected, found.failed = True, "proxy"
        raise
    found.connected = True
    if context is not None:
        found.failed = "tls"
        try:
            made.sock = secured = context.wrap_socket(made.sock, server_hostname=parts.hostname)
        except OSError:
            made.close()
            raise
        found.tls = secured.version() or ""
        until = (secured.getpeercert() or {}).get("notAfter")
        found.expires = float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None
    found.failed = ""
    return made


def _ask(settings: EndpointSettings, connection: http.client.HTTPConnection, found: Reached) -> None:
    plain_proxy = settings.proxy and settings.base_url.startswith("http:")
    path = urlsplit(settings.base_url).path
    target = f"{settings.base_url}/" if plain_proxy else f"{path}/"
    found.asked = time.time()
    connection.request("HEAD", target, headers=_for_proxy(settings) if plain_proxy else {})
    answer = connection.getresponse()
    found.answered = time.time()
    found.status = answer.status
    try:
        found.date = parsedate_to_datetime(answer.getheader("Date") or "").timestamp()
    except ValueError:
        found.date = None


def _for_proxy(settings: EndpointSettings) -> dict[str, str]:
    if not settings.proxy_auth:
        return {}
    coded = base64.b64encode(settings.proxy_auth.get_secret_value().encode()).decode()
    return {"Proxy-Authorization": f"Basic {coded}"}


def _words(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if alert := tls.unwelcome(exc):
        return f"the endpoint does not accept our certificate, or misses one ({alert})"
    if isinstance(exc, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s"
    said = exc.strerror if isinstance(exc, OSError) else None
    return (said or str(exc) or type(exc).__name__)[:200]
