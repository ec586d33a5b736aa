"""Tokens as an OAuth password grant gives them: who gets one, and which are good for a request.

What a login's request and answer look like over HTTP is left to `server.py`.
"""

import base64
import secrets
import time
from collections.abc import Callable, Mapping

REFUSED = {"error": "invalid_grant", "error_description": "Неверное имя пользователя или пароль"}


class Logins:
    """Gives tokens that live *life_s* to one user; without a *password* there are none, and none is asked for.

    A refresh token brings one answer, and another refresh token with it. `logins` and `refreshes` count what was
    given, `refused` what was not.
    """

    def __init__(
        self, username: str, password: str | None, life_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._user = username, password
        self._life_s = life_s
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._refresh: set[str] = set()
        self.logins = 0
        self.refreshes = 0
        self.refused = 0

    def __bool__(self) -> bool:
        return self._user[1] is not None

    def grant(self, form: Mapping[str, str]) -> dict[str, object] | None:
        """Return the members of the answer to a login, or none when it is refused."""
        kind = form.get("grant_type")
        if self and kind == "password" and (form.get("username"), form.get("password")) == self._user:
            self.logins += 1
        elif kind == "refresh_token" and form.get("refresh_token") in self._refresh:
            self._refresh.discard(form["refresh_token"])
            self.refreshes += 1
        else:
            self.refused += 1
            return None
        access, refresh = _token(), secrets.token_urlsafe(24)
        self._ends[access] = self._clock() + self._life_s
        self._refresh.add(refresh)
        return {
            "access_token": access, "token_type": "bearer", "expires_in": self._life_s, "refresh_token": refresh,
        }  # fmt: skip

    def admits(self, authorization: str | None) -> bool:
        """Return whether a request with this header may pass."""
        kind, _, token = (authorization or "").partition(" ")
        return kind.lower() == "bearer" and self._clock() < self._ends.get(token, 0.0)

    def forget(self, *, refresh: bool = True) -> None:
        """Void every token that was given; with *refresh*, the ones to renew them as well."""
        self._ends.clear()
        if refresh:
            self._refresh.clear()


def _token() -> str:
    """Return what looks like a JSON Web Token, and says nothing."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    return f"{head}.{secrets.token_urlsafe(24)}.{secrets.token_urlsafe(24)}"
