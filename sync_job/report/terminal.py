"""A report on a terminal: the headline, then the sections of `content` as words and tables, in English.

Without colours and boxes it reads as well, for where no terminal is. Settings and pictures stay on the page.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sync_job.report import check_text, content, headline
from sync_job.report.counts import Summary
from sync_job.report.words import Words

_STYLES: dict[headline.State, str] = {"fine": "bold green", "look": "bold yellow", "act": "bold red"}
_LEFT_OUT = ("settings",)
_MANY = 8  # columns that have to stand close together
_SHORT = 24  # letters of what stays in one line


def report(found: Summary, earlier: Sequence[Summary], config: str = "") -> RenderableType:
    """Return the report of a run; *earlier* are those before it, the newest last, *config* the file for commands."""
    return Group(*_parts(found, earlier, Words("en", content.zone(found)), config))


def _parts(found: Summary, earlier: Sequence[Summary], words: Words, config: str) -> Iterator[RenderableType]:
    top = headline.read(found, earlier, words, config)
    yield Text(_about(found, words), "dim")
    yield Text.assemble((f"{words(top.state).upper()}  ", _STYLES[top.state]), (top.sentence, "bold"))
    for reason in found["reasons"]:
        yield Padding(Text(f"! {_visible(reason)}"), (0, 0, 0, 2), expand=False)
    for number, step in enumerate(top.steps, 1):
        yield Padding(Text(f"{number}. {step.text}"), (0, 0, 0, 2), expand=False)
        if step.command:
            yield Text(f"     {step.command}", "cyan", no_wrap=True, overflow="ignore")
    for section in content.sections(found, earlier, words):
        if section.name not in _LEFT_OUT:
            yield from _section(section, words)


def _about(found: Summary, words: Words) -> str:
    times = {name: words.time(found[name]) for name in ("started", "ended")}
    return words("about", kind=content.kind(found, words), run=found["run"], target=found["target"], **times)


def _section(section: content.Section, words: Words) -> Iterator[RenderableType]:
    yield Text(f"\n{section.title}", "bold underline")
    for line in (*section.lines, *section.said):
        yield Padding(Text(_visible(line)), (0, 0, 0, 2), expand=False)
    for one in section.tables:
        if not any(any(row[1:]) for row in one.rows):
            continue  # nothing but zeros
        yield Text(f"  {_visible(one.caption)}", "italic")
        yield Padding(_table(one, words), (0, 0, 0, 2), expand=False)
        if one.more:
            yield Text(f"  {words('more', n=one.more)}")


def _table(one: content.Table, words: Words) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2 if len(one.head) < _MANY else 1, 0, 0), header_style="dim")
    for place, name in enumerate(one.head):
        short = not place and max(len(str(row[0])) for row in one.rows) <= _SHORT
        justify: Literal["right", "left"] = "right" if place in one.numbers else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=short)
    for row in one.rows:
        if not any(row[1:]):
            continue  # A line of zeros says nothing here.
        last = one.total and row is one.rows[-1]
        cells = (words.number(cell) if isinstance(cell, int) else _visible(cell) for cell in row)
        table.add_row(*(Text(cell, "bold" if last else "") for cell in cells))
    return table


def _visible(said: str) -> str:
    return check_text.visible(said.replace("\N{NO-BREAK SPACE}", " "))
