"""What a shell offers behind the tab key, and the script that asks for it.

Nothing here may be slow: a person waits for each answer, so that neither the state nor a library of the runs is read.
"""

import os
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

_RUN = re.compile(r"\d{4,}-\d{8}T\d{6}Z")
_REPORTS = "CONSENT_SYNC__REPORT__PATH"
_MOST = 50
# bash alone: elsewhere typer's own are as good. A folder is no end of a name: no blank follows it.
_BASH = """\
_consent_sync_completion() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
                   _CONSENT_SYNC_COMPLETE=complete_bash "$1" 2>/dev/null ) )
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}

complete -o default -F _consent_sync_completion consent-sync"""

Shell = Literal["bash", "zsh", "fish"]


def add_to(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(completion)


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="For which shell.")]) -> None:
    """Print the script with which a shell completes this command: names of commands, options, files and runs.

    It changes no file of yours: where it goes is for you, or for a package, to say.

    Example: source <(consent-sync completion bash)
    """
    typer.echo(script(shell))


def script(shell: Shell) -> str:
    """Return the script for *shell*."""
    if shell == "bash":
        return _BASH
    from typer import completion as typers

    made: str = typers.get_completion_script(  # type: ignore[attr-defined]
        prog_name="consent-sync", complete_var="_CONSENT_SYNC_COMPLETE", shell=shell
    )
    return made


def prepare() -> None:
    """Let the command answer a shell that asks what may follow."""
    if "_CONSENT_SYNC_COMPLETE" in os.environ:
        from typer import completion as typers

        typers.completion_init()  # type: ignore[attr-defined]


def files(incomplete: str) -> list[str]:
    """Return nothing: the shell offers files itself, as it does for any command."""
    return []


def configurations(incomplete: str) -> list[str]:
    """Return the configurations (*.toml) and the folders that *incomplete* may become."""
    folder, _, begin = incomplete.rpartition("/")
    given = f"{folder}/" if "/" in incomplete else ""
    found = []
    with suppress(OSError):
        for path in sorted(Path(given or ".").expanduser().iterdir()):
            hidden = path.name.startswith(".") and not begin.startswith(".")
            if path.name.startswith(begin) and not hidden and (path.suffix == ".toml" or path.is_dir()):
                found.append(f"{given}{path.name}{'/' if path.is_dir() else ''}")
    return found


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of the newest reports, where the configuration was named before."""
    config = ctx.params.get("config")
    file = config[0] if isinstance(config, list | tuple) and config else config
    if not file:
        return []
    try:
        content = tomllib.loads(Path(str(file)).read_text("utf-8-sig"))
        section = content.get("report", {})
        reports = os.environ.get(_REPORTS) or (section.get("path") if isinstance(section, dict) else None) or "reports"
        folder = Path(str(file)).absolute().parent / Path(str(reports)).expanduser()
        names = sorted((path.name for path in folder.iterdir() if _RUN.fullmatch(path.name)), reverse=True)
    except (OSError, ValueError):
        return []
    return [name for name in names if name.startswith(incomplete)][:_MOST]
