"""One post of a notification, over real sockets: what goes wrong is a value, in time, and does not show the address."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from sync_job.delivery import notices
from sync_job.delivery.notices import Notice, Said
from tests.listener import listening
from tests.sockets import Authority, delivering, serving

WORD = "hush-hush"
PATIENCE_S = 20.0  # far more than a post may take here: beyond it something is broken


def posted(url: str, timeout_s: float = 10.0) -> Said:
    """Return what came of a post to a secret path at *url*."""
    notice = Notice(f"{url}/{WORD}?key={WORD}", b"{}", "application/json")
    (said,) = asyncio.run(notices.post([notice], timeout_s))
    assert WORD not in said.why + repr(notice) + notice.host
    return said


def test_what_is_posted_arrives() -> None:
    """Path, query, type and body; and what came back."""
    with listening(204) as there:
        assert posted(there.url).why == ""
        assert there.posts == [(f"/{WORD}?key={WORD}", "application/json", "{}")]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_trouble_there_is_tried_once_more(status: int) -> None:
    """The second try may go well; there is no third."""
    with listening(status, 200) as there:
        assert posted(there.url).why == ""
        assert len(there.posts) == 2
    with listening(status) as there:
        assert posted(there.url) == Said(status, f"HTTP {status}", "ok")
        assert len(there.posts) == 2


def test_no_is_not_asked_again() -> None:
    """404 is no trouble that passes."""
    with listening(404) as there:
        assert posted(there.url).why == "HTTP 404"
        assert len(there.posts) == 1


def test_a_redirect_is_not_followed() -> None:
    """It would carry the secret to whoever it names."""
    with listening(307) as there:
        assert "redirect" in posted(there.url).why
        assert len(there.posts) == 1


def test_silence_ends_in_time() -> None:
    """Both tries together take no longer than the timeout, whatever the server does not do."""
    with listening(0) as there:
        began = time.monotonic()
        assert "no answer" in posted(there.url, timeout_s=0.5).why
        assert time.monotonic() - began < PATIENCE_S
        assert 1 <= len(there.posts) <= 2


def test_nobody_there() -> None:
    """A refused connection is said in the system's words."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        assert posted(f"http://127.0.0.1:{taken.getsockname()[1]}").why == "no connection (Connection refused)"


def test_no_such_name() -> None:
    """A name that nobody has is looked up in vain."""
    assert posted("http://nobody.invalid", timeout_s=5).why in ("no such host", "no answer within 5 s")


def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    """Nothing is sent to a server that cannot show who it is; it is not asked twice."""
    context = Authority(tmp_path).server()
    seen: list[bytes] = []

    async def main() -> Said:
        async with serving(delivering(seen), context) as port:
            notice = Notice(f"https://127.0.0.1:{port}/{WORD}", b"{}", "application/json")
            (said,) = await notices.post([notice], 10)
            return said

    said = asyncio.run(main())
    assert said.why.startswith("its certificate is not one to trust (")
    assert not seen


def test_a_private_ca_is_trusted_where_the_environment_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE holds for notifications as it does for exports from the web."""
    authority = Authority(tmp_path)
    context = authority.server()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    seen: list[bytes] = []

    async def main() -> Said:
        async with serving(delivering(seen), context) as port:
            notice = Notice(f"https://127.0.0.1:{port}/{WORD}", b"{}", "application/json")
            (said,) = await notices.post([notice], 10)
            return said

    assert asyncio.run(main()).why == ""
    assert len(seen) == 1


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY leads there, NO_PROXY does not."""
    with listening() as proxy, listening() as there:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert posted("http://somewhere.example").why == ""
        assert proxy.paths == [f"http://somewhere.example/{WORD}?key={WORD}"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert posted(there.url).why == ""
        assert len(proxy.posts) == len(there.posts) == 1


def test_all_are_posted_at_once() -> None:
    """One that hangs keeps no other from being told."""
    with listening(0) as silent, listening() as there:
        one, other = (Notice(f"{url}/x", b"", "text/plain") for url in (silent.url, there.url))
        said = asyncio.run(notices.post([one, other], 0.5))
        assert [bool(answer.why) for answer in said] == [True, False]


@pytest.mark.parametrize(
    ("url", "more", "expected"),
    [
        ("https://hc.example/ping/ab", "/start", "https://hc.example/ping/ab/start"),
        ("https://hc.example/ping/ab/", "/fail", "https://hc.example/ping/ab/fail"),
        ("https://hc.example/a%2Fb?x=1", "/fail", "https://hc.example/a%2Fb/fail?x=1"),
        ("https://hc.example/ping/ab", "", "https://hc.example/ping/ab"),
    ],
)
def test_what_is_appended_goes_behind_the_path(url: str, more: str, expected: str) -> None:
    """A query stays where it is, and what is escaped stays escaped."""
    assert notices.behind(url, more) == expected
