"""One token for all workers: got once, renewed in time, replaced once; and what a login that fails means."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from structlog.testing import capture_logs

from sync_job.config import AuthSettings, Settings
from sync_job.delivery.auth import PAUSE_S, Token, Tokens, read
from sync_job.delivery.verdict import Answer, Codes, Failure, Kind, judge
from sync_job.runs import trial
from sync_job.standin.background import running
from sync_job.standin.options import Options
from tests import virtual
from tests.sockets import SENT, opened

PATH = "/ManagerLogin"
USER = AuthSettings(kind="password", username="robot", password=SecretStr("hush"))
DOWN = Answer(failure=Failure.NOT_CONNECTED)
OPTIONS = Options(username="robot", password="hush", token_life_s=0.3)  # noqa: S106 - a made-up one


def given_token(number: int, life_s: object = 100, *, refresh: bool = True) -> tuple[Answer, bytes]:
    """Return a login's answer that brings token *number*."""
    said: dict[str, object] = {"access_token": f"T{number}", "expires_in": life_s}
    if refresh:
        said["refresh_token"] = f"R{number}"
    return Answer(200), json.dumps(said).encode()


def refused(status: int = 400, error: str = "invalid_grant") -> tuple[Answer, bytes]:
    """Return a login's answer that says no."""
    return Answer(status), json.dumps({"error": error, "error_description": "hush?"}).encode()


@dataclass
class Login:
    """A login that answers as listed, the last for ever, each after a second; it keeps the forms it was sent."""

    answers: list[tuple[Answer, bytes]]
    takes_s: float = 1.0
    forms: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, form: dict[str, str]) -> tuple[Answer, bytes]:
        """Return the next answer."""
        self.forms.append(form)
        answer = self.answers[min(len(self.forms), len(self.answers)) - 1]
        await asyncio.sleep(self.takes_s)
        return answer

    @property
    def kinds(self) -> list[str]:
        """The kinds of grant that were asked for."""
        return [form["grant_type"] for form in self.forms]


def within(login: Login, main: Callable[[Tokens], Awaitable[None]], operator: int | None = None) -> None:
    """Run *main* with tokens of *login*, in virtual time."""

    async def run() -> None:
        tokens = Tokens(USER, operator, login, clock=virtual.now)
        try:
            await main(tokens)
        finally:
            await tokens.close()

    virtual.run(run())


async def token_of(tokens: Tokens) -> Token:
    """Return the token, which must be there."""
    found = await tokens.obtain()
    assert isinstance(found, Token)
    return found


def test_first_token_is_asked_for_once_for_all_workers() -> None:
    """Fifty workers that begin at once send one login, with what the contract wants."""
    login = Login([given_token(1)])

    async def main(tokens: Tokens) -> None:
        assert tokens.ready() is None
        found = await asyncio.gather(*(tokens.obtain() for _ in range(50)))
        assert {id(token) for token in found} == {id(tokens.ready())}

    within(login, main, operator=3)
    assert login.forms == [{"grant_type": "password", "username": "robot", "password": "hush", "operator": "3"}]


def test_operator_is_left_out_if_there_is_none() -> None:
    """As it is left out of requests."""
    login = Login([given_token(1)])

    async def main(tokens: Tokens) -> None:
        await tokens.obtain()

    within(login, main)
    assert "operator" not in login.forms[0]


def test_401_of_fifty_workers_is_one_renewal() -> None:
    """Those who come with the refused token while it is replaced, or after it was, get the new one."""
    login = Login([given_token(1), given_token(2)])

    async def main(tokens: Tokens) -> None:
        first = await token_of(tokens)

        async def worker(number: int) -> Token | Answer:
            await asyncio.sleep(number * 0.05)  # the last come long after the renewal
            return await tokens.instead_of(first)

        found = await asyncio.gather(*(worker(number) for number in range(50)))
        assert {token.access for token in found if isinstance(token, Token)} == {"T2"}
        assert len(found) == 50

    within(login, main)
    assert login.kinds == ["password", "refresh_token"]
    assert login.forms[1] == {"grant_type": "refresh_token", "refresh_token": "R1"}


def test_refused_token_is_sent_by_nobody_while_it_is_replaced() -> None:
    """A worker that begins after the first 401 waits for the new token."""
    login = Login([given_token(1), given_token(2)])

    async def main(tokens: Tokens) -> None:
        first = await token_of(tokens)
        replacing = asyncio.ensure_future(tokens.instead_of(first))
        await asyncio.sleep(0.1)
        assert tokens.ready() is None
        assert (await token_of(tokens)).access == "T2"
        await replacing

    within(login, main)
    assert len(login.forms) == 2


def test_token_is_renewed_before_it_expires_and_nobody_waits() -> None:
    """A fifth before its end one renewal begins; until it is done the old token is used."""
    login = Login([given_token(1), given_token(2)])

    async def main(tokens: Tokens) -> None:
        first = await token_of(tokens)
        await asyncio.sleep(79 - virtual.now())
        assert tokens.ready() is first
        await asyncio.sleep(0.5)
        assert len(login.forms) == 1
        await asyncio.sleep(80.1 - virtual.now())
        assert [tokens.ready() for _ in range(50)] == [first] * 50
        await asyncio.sleep(0.5)
        assert tokens.ready() is first
        await asyncio.sleep(1)
        renewed = tokens.ready()
        assert renewed is not None
        assert renewed.access == "T2"
        assert renewed.expires_at == pytest.approx(180.1, abs=1e-3)

    within(login, main)
    assert login.kinds == ["password", "refresh_token"]


def test_background_renewal_that_fails_is_repeated_gently_and_stops_nobody() -> None:
    """While the old token is good it is used; the login is asked once in a while, and one warning is logged."""
    login = Login([given_token(1), (Answer(503, retry_after="10"), b""), (DOWN, b""), given_token(2)])

    async def main(tokens: Tokens) -> None:
        first = await token_of(tokens)
        asked: list[int] = []
        await asyncio.sleep(80.1 - virtual.now())
        while (token := tokens.ready()) is first:
            asked.append(len(login.forms))
            await asyncio.sleep(0.1)
        assert token is not None
        assert token.access == "T2"
        assert asked.count(2) > 100, "a Retry-After of ten seconds is kept to"

    with capture_logs() as logs:
        within(login, main)
    assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["auth.not_renewed"]
    assert login.kinds == ["password"] + ["refresh_token"] * 3


def test_expired_token_is_waited_for() -> None:
    """After a long pause nobody sends a token that has expired."""
    login = Login([given_token(1), given_token(2)])

    async def main(tokens: Tokens) -> None:
        await tokens.obtain()
        await asyncio.sleep(100)
        assert tokens.ready() is None
        assert {one.access for one in await asyncio.gather(*(token_of(tokens) for _ in range(9)))} == {"T2"}

    within(login, main)
    assert len(login.forms) == 2


def test_refused_refresh_falls_back_to_the_password() -> None:
    """The refresh token may have been used, or have expired; whoever waits notices nothing."""
    login = Login([given_token(1), refused(), given_token(2, refresh=False), given_token(3)])

    async def main(tokens: Tokens) -> None:
        first = await token_of(tokens)
        second = await tokens.instead_of(first)
        assert isinstance(second, Token)
        assert second.access == "T2"
        await tokens.instead_of(second)

    within(login, main)
    assert login.kinds == ["password", "refresh_token", "password", "password"]


def test_token_without_an_end_is_good_until_a_401() -> None:
    """Without expires_in nothing is renewed by time."""
    login = Login([(Answer(200), b'{"access_token": "T1"}'), given_token(2)])

    async def main(tokens: Tokens) -> None:
        first = await token_of(tokens)
        await asyncio.sleep(1e6)
        assert tokens.ready() is first
        assert not tokens.expired(first)
        assert await tokens.instead_of(first) is tokens.ready()

    within(login, main)
    assert login.kinds == ["password", "password"]


@pytest.mark.parametrize("answer", [DOWN, Answer(429, retry_after="7"), Answer(503), Answer(500), Answer(408)])
def test_login_that_is_down_is_worth_another_try(answer: Answer) -> None:
    """All who wait get the same answer; the change was not sent; the next try comes after a pause, and works."""
    login = Login([(answer, b""), given_token(1)])

    async def main(tokens: Tokens) -> None:
        found = await asyncio.gather(*(tokens.obtain() for _ in range(50)))
        for one in found:
            assert isinstance(one, Answer)
            assert one.failure is Failure.NOT_CONNECTED
            assert one.retry_after == answer.retry_after
            assert PATH in one.detail
            verdict = judge(one, Codes(), good_before=False)
            assert (verdict.kind, verdict.doubt) == (Kind.TRANSIENT, False)
        began = virtual.now()
        await asyncio.gather(*(token_of(tokens) for _ in range(50)))
        assert virtual.now() - began >= PAUSE_S

    within(login, main)
    assert len(login.forms) == 2


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (refused(400), "CONSENT_SYNC__ENDPOINT__AUTH__PASSWORD"),
        (refused(401, ""), "CONSENT_SYNC__ENDPOINT__AUTH__PASSWORD"),
        ((Answer(403), b"<html>"), "[endpoint.auth] username"),
        ((Answer(404), b""), "login_path"),
        ((Answer(405), b""), "login_path"),
        ((Answer(302, detail="/sso"), b""), "redirected to /sso"),
        ((Answer(200), b"<html>"), "login_path"),
        ((Answer(200), b'{"access_token": "two\\nlines"}'), "login_path"),
        ((Answer(200), b'{"access_token": 5}'), "login_path"),
        ((Answer(204), b""), "login_path"),
        ((Answer(407), b""), "CONSENT_SYNC__ENDPOINT__PROXY_AUTH"),
        ((Answer(failure=Failure.CERTIFICATE), b""), "[endpoint.tls]"),
        ((Answer(failure=Failure.NOT_AUTHORISED, detail="[endpoint.tls]"), b""), "[endpoint.tls]"),
    ],
)
def test_login_that_says_no_stops_the_run_and_is_not_repeated(reply: tuple[Answer, bytes], named: str) -> None:
    """The reason names the setting, and nothing that is secret; asking again would lock the user out."""
    login = Login([reply])

    async def main(tokens: Tokens) -> None:
        for _ in range(3):
            found = await tokens.obtain()
            assert isinstance(found, Answer)
            verdict = judge(found, Codes(), good_before=True)
            assert (verdict.kind, verdict.doubt) == (Kind.STOP, False)
            assert named in verdict.why
            assert "hush" not in verdict.why

    with capture_logs() as logs:
        within(login, main)
    assert len(login.forms) == 1
    assert [one["event"] for one in logs] == ["auth.not_renewed"]
    assert "hush" not in str(logs)


def test_403_without_a_word_is_a_throttle_once_there_was_a_token() -> None:
    """As for changes: a web server that limits addresses answers so, and the password was good before."""
    login = Login([given_token(1, refresh=False), (Answer(403), b"<html>"), refused(403)])

    async def main(tokens: Tokens) -> None:
        first = await token_of(tokens)
        throttled = await tokens.instead_of(first)
        assert isinstance(throttled, Answer)
        assert throttled.failure is Failure.NOT_CONNECTED
        wrong = await tokens.obtain()
        assert isinstance(wrong, Answer)
        assert wrong.failure is Failure.NOT_AUTHORISED

    within(login, main)


def test_worker_that_is_cancelled_leaves_the_token_to_the_others() -> None:
    """The one that began the login is stopped; the login goes on."""
    login = Login([given_token(1)])

    async def main(tokens: Tokens) -> None:
        first, second = (asyncio.ensure_future(token_of(tokens)) for _ in range(2))
        await asyncio.sleep(0.5)
        first.cancel()
        assert (await second).access == "T1"

    within(login, main)
    assert len(login.forms) == 1


@pytest.mark.parametrize(
    ("value", "life_s"),
    [(100, 100), (0.5, 0.5), ("100", 100), (None, math.inf), (0, math.inf), (-5, math.inf), ("soon", math.inf),
     (True, math.inf), ([], math.inf), (math.inf, math.inf), (math.nan, math.inf), (10**400, math.inf)],
)  # fmt: skip
def test_life_is_read_leniently(value: object, life_s: float) -> None:
    """Seconds as number or text; anything else says nothing."""
    token = read(*given_token(1, value), asked_at=1000.0, path=PATH, good_before=False)
    assert isinstance(token, Token)
    assert token.expires_at == 1000 + life_s
    assert token.renew_at == 1000 + life_s - (0 if life_s == math.inf else life_s * 0.2)


def test_margin_is_a_minute_at_most() -> None:
    """A token for a day is used for all of it but a minute."""
    token = read(*given_token(1, 86400), asked_at=0.0, path=PATH, good_before=False)
    assert isinstance(token, Token)
    assert token.renew_at == 86340


@given(st.integers(100, 599), st.binary(max_size=60), st.booleans())
def test_any_answer_of_a_login_is_read(status: int, body: bytes, good: bool) -> None:
    """Whatever comes is a token, worth another try, or the end; never in doubt, and never an exception."""
    found = read(Answer(status), body, 0.0, PATH, good_before=good)
    if isinstance(found, Answer):
        verdict = judge(found, Codes(), good_before=good)
        assert verdict.kind in (Kind.TRANSIENT, Kind.STOP)
        assert not verdict.doubt


def test_secrets_are_in_no_repr() -> None:
    """A token that gets into a log by its repr shows nothing."""
    assert "hush" not in repr(Token("hush", "hush"))
    assert "hush" not in repr(USER)


def deliver(url: str, rows: int, workers: int = 8, pause_s: float = 0.0, **auth: object) -> list[Answer]:
    """Return the answers to so many attempts of several workers, each row tried until it is no transient failure."""

    async def main() -> list[Answer]:
        left = iter(range(1, rows + 1))
        answers: list[Answer] = []
        settings = USER.model_copy(update=auth)
        async with opened(url, auth=settings) as endpoint:

            async def work() -> None:
                for client in left:
                    answer = await endpoint.attempt(client, SENT)
                    while judge(answer, Codes(), good_before=True).kind in (Kind.TRANSIENT, Kind.BUSY):
                        answer = await endpoint.attempt(client, SENT)
                    answers.append(answer)
                    await asyncio.sleep(pause_s)

            await asyncio.gather(*(work() for _ in range(workers)))
        return answers

    return asyncio.run(main())


def test_short_lived_tokens_lose_no_row() -> None:
    """Tokens that live 0.3 s, for a second and a half: every row is delivered, with one renewal each life at most."""
    with running(OPTIONS) as platform:
        began = time.monotonic()
        answers = deliver(platform.url, 400, pause_s=0.03)
        lives = (time.monotonic() - began) / 0.3
        assert [answer.status for answer in answers] == [200] * 400
        assert platform.platform.state.keys() == set(range(1, 401))
        assert platform.logins.logins == 1
        # A life ends a fifth before its time.
        assert 3 <= platform.logins.refreshes <= lives / 0.8 + 1
        assert platform.logins.refused == 0


def test_forgotten_tokens_are_replaced_once() -> None:
    """A platform that restarts knows neither tokens nor refresh tokens: one login for all workers, and no row lost."""
    with running(Options(username="robot", password="hush")) as platform:  # noqa: S106

        async def main() -> None:
            async with opened(platform.url, auth=USER) as endpoint:
                assert (await endpoint.attempt(1, SENT)).status == 200
                platform.logins.forget()
                answers = await asyncio.gather(*(endpoint.attempt(client, SENT) for client in range(2, 52)))
                assert [answer.status for answer in answers] == [200] * 50

        asyncio.run(main())
        assert (platform.logins.logins, platform.logins.refreshes, platform.login_requests) == (2, 0, 3)


def test_second_401_comes_back() -> None:
    """A platform that refuses the tokens it gives: one new token, one more request, and the answer is 401."""
    with running(Options(username="robot", password="hush", token_life_s=0)) as platform:  # noqa: S106

        async def main() -> Answer:
            async with opened(platform.url, auth=USER) as endpoint:
                return await endpoint.attempt(1, SENT)

        assert asyncio.run(main()) == Answer(401, reused=True)
        assert (platform.requests, platform.login_requests) == (2, 2)


def test_login_that_is_busy_at_first_is_waited_for() -> None:
    """503, a lost connection's status and 429 cost time, no row."""
    options = Options(username="robot", password="hush", login_statuses=(503,), retry_after_s=0)  # noqa: S106
    with running(options) as platform:
        assert [answer.status for answer in deliver(platform.url, 3)] == [200] * 3
        assert platform.login_requests == 2


def test_wrong_password_is_one_login() -> None:
    """However many workers there are: the user is not locked out."""
    with running(OPTIONS) as platform:
        answers = deliver(platform.url, 20, password=SecretStr("wrong"))
        assert {answer.failure for answer in answers} == {Failure.NOT_AUTHORISED}
        assert "(invalid_grant)" in answers[0].detail
        assert (platform.login_requests, platform.requests) == (1, 0)


def test_try_logs_in_and_shows_no_secret() -> None:
    """`try` works with tokens from a login; what it shows has neither them nor the password."""
    with running(OPTIONS) as platform:
        endpoint = {
            "base_url": platform.url,
            "secret_headers": [{"name": "X-Api-Key", "value": SecretStr("hush")}],
            "auth": USER,
        }
        settings = Settings.model_validate({"export": {"as_of": "none"}, "endpoint": endpoint})
        found = trial.send(settings, 1, ["sms"])
        assert found.verdict.kind is Kind.DELIVERED
        assert found.headers["X-Api-Key"] == "***"
        assert "Authorization" not in found.headers
        assert "hush" not in repr(found)
