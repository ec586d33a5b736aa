"""What a configuration may add to the tokens of flags, and what it may not."""

from typing import Any

import pytest

from sync_job.consent import tokens
from sync_job.consent.channels import ALLOWED, BLANK, DENIED


def _of(own: dict[str, Any], everywhere: dict[str, Any] | None = None, *, inverted: bool = False) -> dict[str, int]:
    return tokens.of_channel(tokens.common(everywhere or {}), own, inverted=inverted)


def test_a_channel_has_its_own_tokens_and_those_of_all() -> None:
    """In lower case and without blanks around, as they are compared."""
    found = _of({"allowed": [" S "], "denied": ["N"]}, {"allowed": ["ON"], "nothing": ["NULL", "-"]})
    assert found == {"on": ALLOWED, "null": BLANK, "-": BLANK, "s": ALLOWED, "n": DENIED}


@pytest.mark.parametrize(
    ("own", "everywhere", "why"),
    [
        ({"allowed": ["S"], "denied": ["s "]}, {}, "'s' says both allowed and denied"),
        ({"allowed": ["S"]}, {"nothing": ["s"]}, "'s' says nothing for all channels and allowed here"),
        ({}, {"denied": ["1"]}, "'1' says allowed everywhere; that it says denied is for one channel's own table"),
        ({}, {"allowed": ["Нет"]}, "'нет' says denied everywhere"),
        ({"allowed": ["0"]}, {}, "'0' says denied everywhere and is never made an allowed"),
        ({"denied": [" "]}, {}, "a blank is no token"),
        ({"yes": ["S"]}, {}, "'yes' is no meaning; meanings are allowed, denied, nothing"),
    ],
)
def test_tokens_that_contradict_each_other_are_refused(
    own: dict[str, Any], everywhere: dict[str, Any], why: str
) -> None:
    """Or what is built in; a no is never made an *allowed*."""
    with pytest.raises(ValueError, match=why):
        _of(own, everywhere)


def test_a_built_in_token_may_lose_its_meaning_in_one_channel() -> None:
    """Towards denied or nothing: 0 where nobody asked, 1 for no where 2 is yes."""
    assert _of({"nothing": ["0"], "denied": ["1"], "allowed": ["2"]}) == {"0": BLANK, "1": DENIED, "2": ALLOWED}


def test_what_is_built_in_may_be_said_again() -> None:
    """It says the same."""
    assert _of({"allowed": ["1"]}, {"denied": ["NO"]}) == {"1": ALLOWED, "no": DENIED}


def test_an_inverted_column_has_no_meanings_of_its_own() -> None:
    """Nobody could tell whether they are meant before or after it is turned; nothing is nothing either way."""
    assert _of({"nothing": ["-"]}, {"allowed": ["on"]}, inverted=True) == {"on": ALLOWED, "-": BLANK}
    for name in ("allowed", "denied"):
        with pytest.raises(ValueError, match="before or after"):
            _of({name: ["S"]}, inverted=True)
