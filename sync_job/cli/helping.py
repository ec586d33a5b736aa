"""How `--help` looks: what a command does, its options, and an example at the end, where the eye comes to rest."""

import inspect
import re
import textwrap

import typer

_MARK = "\n\nExample: "
_WIDTH = 74  # of a terminal's 80, between indent and backslash
_BOUND = "\xa0"  # a blank between quotation marks, at which no line ends


def examples_last(app: typer.Typer) -> None:
    """Put the example of each command of *app* behind its options, in a form that can be copied."""
    for command in app.registered_commands:
        said, _, example = inspect.cleandoc(command.help or inspect.getdoc(command.callback) or "").partition(_MARK)
        if example:
            command.help, command.epilog = said, epilog(example)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            examples_last(group.typer_instance)


def epilog(example: str) -> str:
    """Return an example as it stands at the end of a help: lines that are too long go on behind a backslash."""
    whole = re.sub(r'"[^"]*"', lambda found: found[0].replace(" ", _BOUND), " ".join(example.split()))
    whole = re.sub(r"(?<= )(--?[a-z][a-z-]*) (?!-)", rf"\1{_BOUND}", whole)  # an option stays with its value
    lines = textwrap.wrap(whole, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    # \b keeps a paragraph as it is written.
    return "\b\nExample:\n  " + " \\\n  ".join(lines).replace(_BOUND, " ")
