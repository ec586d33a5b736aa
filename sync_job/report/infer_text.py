"""The `[export]` section that was guessed, ready to paste: each key with the reason for its value."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ORDER = ("export", "export.columns", "export.blank", "export.values", "export.where")


def section(guesses: Sequence[Mapping[str, Any]]) -> str:
    """Return the guesses as TOML; what a person has to decide is a comment."""
    return "\n".join(_lines(guesses))


def _lines(guesses: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for name in _ORDER:
        of_section = [one for one in guesses if one["section"] == name]
        if not of_section:
            continue
        if name != _ORDER[0]:
            yield ""
        yield f"[{name}]"
        for one in of_section:
            key = one["key"] if _BARE.fullmatch(one["key"]) else _toml(one["key"])
            yield f"{'' if one['decided'] else '# '}{key} = {_toml(one['value'])}  # {_one_line(one['why'])}"


def _toml(value: object) -> str:
    """Return a value as TOML has it; its strings are JSON's, less what only JSON may leave unescaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)
