"""The stand-in's tokens: who gets them, how long they are good, and what is counted."""

from sync_job.standin.logins import Logins

USER = {"grant_type": "password", "username": "robot", "password": "hush"}


def logins(clock: list[float]) -> Logins:
    """Return tokens that live ten seconds on this clock."""
    return Logins("robot", "hush", 10, clock=lambda: clock[0])


def test_token_is_good_for_its_life() -> None:
    """And no other text is, nor the token with another scheme."""
    clock = [0.0]
    found = logins(clock)
    given = found.grant(USER)
    assert given is not None
    assert str(given["access_token"]).count(".") == 2
    assert given["expires_in"] == 10
    header = f"Bearer {given['access_token']}"
    assert found.admits(header)
    assert not any(
        found.admits(other) for other in (None, "", "Bearer ", header + "x", header.replace("Bearer", "Basic"))
    )
    clock[0] = 9.9
    assert found.admits(header)
    clock[0] = 10.0
    assert not found.admits(header)


def test_wrong_user_gets_nothing() -> None:
    """Nor does an unknown grant, or a refresh token that was never given."""
    found = logins([0.0])
    for form in (USER | {"password": "x"}, USER | {"username": "x"}, USER | {"grant_type": "x"}, {}):
        assert found.grant(form) is None
    assert found.grant({"grant_type": "refresh_token", "refresh_token": "x"}) is None
    assert (found.logins, found.refreshes, found.refused) == (0, 0, 5)


def test_refresh_token_brings_one_answer() -> None:
    """The second use is refused; the new one works."""
    found = logins([0.0])
    first = found.grant(USER)
    assert first is not None
    form = {"grant_type": "refresh_token", "refresh_token": str(first["refresh_token"])}
    second = found.grant(form)
    assert second is not None
    assert found.grant(form) is None
    assert found.grant(form | {"refresh_token": str(second["refresh_token"])}) is not None
    assert (found.logins, found.refreshes, found.refused) == (1, 2, 1)


def test_forgotten_tokens_are_void() -> None:
    """As after a restart; refresh tokens may outlive it."""
    found = logins([0.0])
    given = found.grant(USER)
    assert given is not None
    found.forget(refresh=False)
    assert not found.admits(f"Bearer {given['access_token']}")
    form = {"grant_type": "refresh_token", "refresh_token": str(given["refresh_token"])}
    assert found.grant(form) is not None
    found.forget()
    assert found.grant(form) is None


def test_without_a_password_there_are_no_logins() -> None:
    """Not even with none given."""
    found = Logins("", None, 10)
    assert not found
    assert found.grant({"grant_type": "password", "username": ""}) is None
