"""The tokens of flags: which say yes and no in any export, and what a configuration may add to them."""

from collections.abc import Mapping, Sequence

from sync_job.consent.channels import ALLOWED, BLANK, DENIED

BUILT_IN = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "y", "t", "да", "д", "истина"), ALLOWED),
    **dict.fromkeys(("false", "0", "0.0", "no", "n", "f", "нет", "н", "ложь"), DENIED),
}
SAID = {"allowed": ALLOWED, "denied": DENIED, "nothing": BLANK}
_NAMES = {value: name for name, value in SAID.items()}
Meanings = Mapping[str, int]


def common(said: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return what tokens mean in every channel's column, as *said* by meaning, beside those that are built in.

    Raises:
        ValueError: for a blank, for a token that means two things, and for a built-in one that is to mean another.
    """
    found = _by_token(said)
    for token, meaning in found.items():
        if BUILT_IN.get(token, meaning) != meaning:
            raise ValueError(
                f"{token!r} says {_NAMES[BUILT_IN[token]]} everywhere; that it says {_NAMES[meaning]} is for one "
                "channel's own table to say"
            )
    return found


def of_channel(everywhere: Meanings, said: Mapping[str, Sequence[str]], *, inverted: bool) -> dict[str, int]:
    """Return what tokens mean in one channel's column, as *said* by meaning, beside those *everywhere*.

    Its own table may take the meaning of a built-in token away, towards denied or nothing; what says no anywhere is
    never made an *allowed*.

    Raises:
        ValueError: for a blank, a token that means two things, a built-in *no* that is to be an *allowed*, and in an
            *inverted* column for any that is to say allowed or denied, where nobody could tell before or after it.
    """
    own = _by_token(said)
    for token, meaning in own.items():
        if inverted and meaning != BLANK:
            raise ValueError(
                f"{token!r} cannot say {_NAMES[meaning]} in a column that is inverted: before or after? Leave the "
                "column out of inverted, and say of each token what it means"
            )
        if everywhere.get(token, meaning) != meaning:
            raise ValueError(f"{token!r} says {_NAMES[everywhere[token]]} for all channels and {_NAMES[meaning]} here")
        if BUILT_IN.get(token) == DENIED and meaning == ALLOWED:
            raise ValueError(f"{token!r} says denied everywhere and is never made an allowed; see [export] inverted")
    return {**everywhere, **own}


def plain(token: str) -> str:
    """Return a token as it is compared: in lower case, without blanks around."""
    return token.strip().lower()


def _by_token(said: Mapping[str, Sequence[str]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, tokens in said.items():
        if name not in SAID:
            raise ValueError(f"{name!r} is no meaning; meanings are {', '.join(SAID)}")
        for token in map(plain, tokens):
            if not token:
                raise ValueError("a blank is no token: [export.blank] says what it means")
            if found.setdefault(token, SAID[name]) != SAID[name]:
                raise ValueError(f"{token!r} says both {_NAMES[found[token]]} and {name}")
    return found
