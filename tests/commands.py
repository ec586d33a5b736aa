"""The command line, run within this process: what a command ends with and prints."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from sync_job.cli import main


class Said(NamedTuple):
    """What a command ended with and printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


def called(capsys: pytest.CaptureFixture[str], *arguments: str | int | Path) -> Said:
    """Run a command; a traceback is never printed. The fixture `cli` does it without *capsys*."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err, err
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return Said(code or 0, out, err)
