"""Files of web servers: asked for in ranges, or kept once where the server knows no ranges."""

import base64
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from sync_job.config import is_loopback
from sync_job.errors import ExportError, ExportIncompleteError
from sync_job.exports import naming
from sync_job.exports.remote import About, BrokenError, RemoteFile, insist
from sync_job.exports.spool import Spooled

_TIMEOUT_S = 60.0  # without a byte
_RANGE = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+)")
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Web:
    """Web servers, spoken to over https; the certificate is verified, by SSL_CERT_FILE where that is set."""

    def about(self, address: str) -> About:
        """Return what the server says of a file.

        Raises:
            ExportError: when it says no. BrokenError: when it does not answer, or cannot answer in ranges.
        """
        found = _look(address)
        if found is None:
            raise ExportError(f"{naming.shown(address)}: the server stopped to answer in ranges. Run again.")
        return found

    def read(self, address: str, about: About, start: int, stop: int) -> bytes:
        """Return the bytes from *start* on up to *stop*, at least one, as long as the file is as *about* says.

        Raises:
            ExportError: when it is not any more. BrokenError: when nothing came.
        """
        with _answer(address, {"Range": f"bytes={start}-{stop - 1}"}) as answer:
            found = bytearray()
            try:
                while piece := answer.read(min(1 << 16, stop - start - len(found))):
                    found += piece
            except (OSError, http.client.HTTPException):
                pass  # What came is good: the next piece begins behind it.
            # Only behind a whole head there are bytes: one that was cut off says anything.
            if found and _about(answer) != about:
                raise ExportError(
                    f"{naming.shown(address)}: the file changed while it was read. Run again when it is complete."
                )
            if answer.status == 416:
                _about(answer)
        if not found:
            raise BrokenError("the connection broke off")
        return bytes(found)

    def beside(self, address: str, name: str, up: int) -> str | None:
        """Return the address of the file of that name so many folders above a file's own; none where there is none."""
        parts = urlsplit(address)
        folder = parts.path.split("/")[: -1 - up]
        other = urlunsplit((parts.scheme, parts.netloc, "/".join([*folder, name]), "", ""))
        try:
            self.about(other)
        except ExportIncompleteError:
            return None
        return other


def place(address: str, sleep: Callable[[float], None] = time.sleep) -> RemoteFile | Spooled:
    """Return the file at an address.

    Raises:
        ExportError: when the server says no, does not answer, or would be spoken to in the clear.
    """
    if urlsplit(address).scheme == "http" and not is_loopback(address):
        raise ExportError(
            f"{naming.shown(address)}: plain http, so that anybody on the way could read and change who is contacted. "
            "Use https."
        )

    if insist(lambda: _look(address), naming.shown(address), sleep=sleep) is not None:
        return RemoteFile(Web(), address, sleep=sleep)
    return insist(lambda: _keep(address), naming.shown(address), sleep=sleep)


def _keep(address: str) -> Spooled:
    """Return a file of a server without ranges, which is transferred once."""
    name = naming.shown(address)
    with _answer(address, {}) as answer:
        size = answer.headers.get("Content-Length")
        if size is None and "chunked" not in answer.headers.get("Transfer-Encoding", ""):
            raise ExportError(f"{name}: the server does not say how long the file is: nobody could tell it was all.")
        found = Spooled(name, _Whole(answer), _time(answer.headers.get("Last-Modified")))
    if size is not None and found.size_bytes() != int(size):
        raise BrokenError("the connection broke off, and the server cannot carry on from there")
    return found


class _Whole:
    """An answer, which breaks off as a `BrokenError`."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self, size: int, /) -> bytes:
        try:
            found: bytes = self._answer.read(size)
        except (OSError, http.client.HTTPException) as exc:
            raise BrokenError("the connection broke off, and the server cannot carry on from there") from exc
        return found


def _look(address: str) -> About | None:
    """Return what the server says of a file; none where it does not answer in ranges."""
    # One byte, and no HEAD: what a signature allows is to GET.
    with _answer(address, {"Range": "bytes=0-0"}) as answer:
        if answer.status == 416:
            return _about(answer)
        try:
            first = answer.read(1)
        except (OSError, http.client.HTTPException):
            first = b""
        if answer.status == 206 and not first:  # cut off, and perhaps within its head
            raise BrokenError("the connection broke off")
        return _about(answer)


def _about(answer: Any) -> About | None:
    """Return what the head of an answer says of the file; none where it is not an answer in ranges.

    Raises:
        ExportError: when the file ends before the range that was asked for.
    """
    headers = answer.headers
    total = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if answer.status not in (206, 416) or not total:
        return None
    if answer.status == 416 and int(total[1]):
        raise ExportError(
            f"{naming.shown(answer.url)}: the file changed while it was read. Run again when it is complete."
        )
    return About(int(total[1]), _time(headers.get("Last-Modified")), headers.get("ETag", ""))


def _time(text: str | None) -> float | None:
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address, but never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            fp.close()
            raise ExportError(
                f"{naming.shown(req.full_url)}: the server sends us on to plain http, which is not followed."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _answer(address: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """Yield what a server answers; 206 and 416 are answers in ranges, 200 is one without.

    Raises:
        ExportIncompleteError: when there is no such file. ExportError: when the server says no for good.
        BrokenError: when it may do better the next time.
    """
    name = naming.shown(address)
    parts = urlsplit(address)
    userinfo, mark, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(  # noqa: S310 - https, or http to this machine: see `place`
        urlunsplit((parts.scheme, host, parts.path, parts.query, "")),
        headers={"Accept-Encoding": "identity", "User-Agent": "consent-sync", **headers},
    )
    if mark:  # to this server alone, wherever it sends us on to
        token = base64.b64encode(unquote(userinfo).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    speaks = [urllib.request.HTTPSHandler(context=ssl.create_default_context())] if parts.scheme == "https" else []
    opener = urllib.request.build_opener(*speaks, _Redirects())
    try:
        answer = opener.open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as exc:
        answer = exc
    except urllib.error.URLError as exc:
        if isinstance(exc.reason, ssl.SSLCertVerificationError):
            raise ExportError(
                f"{name}: the server's certificate is not trusted: {exc.reason.verify_message}. "
                "SSL_CERT_FILE names a file of certificates to trust."
            ) from exc
        raise BrokenError(f"no connection ({exc.reason})") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise BrokenError("the connection broke off") from exc
    with answer:
        status = answer.status
        if status in _AGAIN:
            raise BrokenError(f"the server answers {status}")
        if status in (404, 410):
            raise ExportIncompleteError(
                f"{name}: no such file ({status}). Check the address, and whether the export has run."
            )
        if status in (401, 403):
            raise ExportError(f"{name}: the server does not let us in ({status}). Has a signature run out?")
        if status not in (200, 206, 416):
            raise ExportError(f"{name}: the server answers {status}. Check the address.")
        yield answer
