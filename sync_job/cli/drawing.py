"""Paragraphs and tables on a terminal, in colours unless NO_COLOR says none; elsewhere plain text."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from sync_job.report.check_text import Part, plain

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 160  # where there is no terminal, whose lines would end anywhere
_STYLES = {"unknown": "bold red", "denied": "yellow", "allowed": "green", "missing": "bold red"}


def show(parts: Iterator[Part]) -> None:
    """Print the parts to standard output."""
    if not sys.stdout.isatty():
        typer.echo(plain(parts))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for part in parts:
        console.print(Text(part.title, "bold red" if part.alarming else "bold"), soft_wrap=True)
        for line in part.lines:
            console.print(Text(f"  {line}"), soft_wrap=True)
        if part.rows:
            table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
            for place, name in enumerate(part.rows[0]):
                table.add_column(name, justify="right" if place in part.right else "left", overflow="fold")
            for row in part.rows[1:]:
                table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
            console.print(table)
        console.print()


def printed(said: "RenderableType") -> None:
    """Print what rich draws to standard output."""
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH).print(said)
