"""The page's words in its language, with numbers, times and plurals as that language writes them.

The texts themselves are in `catalogue`.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

from sync_job.report import catalogue

Language = Literal["en", "ru"]
LANGUAGES: tuple[Language, ...] = ("en", "ru")
_PLACE = re.compile(r"\{(\w+)(?:\|([^}]*))?\}")
_THOUSANDS: Mapping[Language, str] = {"en": ",", "ru": "\N{NO-BREAK SPACE}"}
_SPACE: Mapping[Language, str] = {"en": " ", "ru": "\N{NO-BREAK SPACE}"}  # within a time; a terminal shows English
_POINT: Mapping[Language, str] = {"en": ".", "ru": ","}
_DATE: Mapping[Language, str] = {"en": "%Y-%m-%d", "ru": "%d.%m.%Y"}


class Words:
    """Says a text of the catalogue in one language; times are of *zone*, and name it."""

    def __init__(self, language: Language = "en", zone: str = "UTC") -> None:
        self.language: Language = language
        self._zone = UTC if zone == "UTC" else ZoneInfo(zone)

    def __call__(self, key: str, **placeholders: object) -> str:
        """Return the text of *key*.

        In a text `{n}` is the placeholder n, and `{n|row|rows}` the form that goes with its number: for English one and
        many, for Russian one, few and many. Whole numbers are written as by `number`.
        """
        text = catalogue.TEXTS[key][LANGUAGES.index(self.language)]

        def fill(found: re.Match[str]) -> str:
            value = placeholders[found[1]]
            if found[2] is not None:
                return found[2].split("|")[_form(self.language, value)]
            return self.number(value) if isinstance(value, int) else str(value)

        return _PLACE.sub(fill, text)

    def label(self, key: str, **placeholders: object) -> str:
        """Return the text of *key* with a capital, as it stands in a table or above one."""
        return capital(self(key, **placeholders))

    def named(self, what: str, name: str, otherwise: str | None = None) -> str:
        """Return what people call a *name* of the product's, such as a guard's; *otherwise* or itself where it is new.

        Its key is *what* and the name with `_` between its words.
        """
        key = f"{what}_{name.replace(' ', '_').replace('-', '_')}"
        if key in catalogue.TEXTS:
            return self(key)
        return name if otherwise is None else otherwise

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number as it is written, with *digits* after the point."""
        written = f"{value:,.{digits}f}".replace(".", "\0").replace(",", _THOUSANDS[self.language])
        return written.replace("\0", _POINT[self.language]).replace("-", "\N{MINUS SIGN}")

    def share(self, value: float) -> str:
        """Return a share as a percentage, with a digit after the point where it is under ten."""
        digits = 0 if value >= 0.1 or value == 0 else 1 if value >= 0.001 else 2
        return f"{self.number(100 * value, digits)}{'' if self.language == 'en' else chr(0xA0)}%"

    def date(self, epoch: float) -> str:
        """Return the day of a time in epoch seconds."""
        return self._at(epoch).strftime(_DATE[self.language])

    def clock(self, epoch: float) -> str:
        """Return the time of day of a time in epoch seconds, to the second."""
        return self._at(epoch).strftime("%H:%M:%S")

    def time(self, epoch: float) -> str:
        """Return day, time to the minute, and zone of a time in epoch seconds."""
        space = _SPACE[self.language]
        return self._at(epoch).strftime(f"{_DATE[self.language]}{space}%H:%M{space}%Z")

    def span(self, seconds: float) -> str:
        """Return how long something takes, as people say it."""
        if seconds < 0.9995:
            return self("span_ms", n=self.number(1000 * seconds))
        if seconds < 120:
            return self("span_s", n=self.number(seconds, 1 if seconds < 10 else 0))
        if seconds < 7200:
            return self("span_min", n=self.number(seconds / 60))
        if seconds < 48 * 3600:
            return self("span_h", n=self._rough(seconds / 3600))
        return self("span_d", n=self._rough(seconds / 86400))

    def hours(self, hours: float) -> str:
        """Return a span as targets and limits are stated: in hours, however many."""
        return self("span_h", n=self._rough(hours))

    def _rough(self, value: float) -> str:
        """Return a number with a digit after the point, unless that is a nought."""
        return self.number(value, 0 if round(value, 1) % 1 == 0 else 1)

    def _at(self, epoch: float) -> datetime:
        return datetime.fromtimestamp(epoch, UTC).astimezone(self._zone)


def capital(said: str) -> str:
    """Return what is *said* with a capital."""
    return said[:1].upper() + said[1:]


def _form(language: Language, value: object) -> int:
    """Return which of a noun's forms goes with a number."""
    count = abs(value) if isinstance(value, int) else 2
    if language == "en":
        return int(count != 1)
    if count % 10 == 1 and count % 100 != 11:
        return 0
    return 1 if 2 <= count % 10 <= 4 and not 12 <= count % 100 <= 14 else 2
