"""Whether the configuration can be used, and where each secret comes from; never what one holds."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sync_job import config
from sync_job.config import Settings
from sync_job.config.secrets import Source, sources
from sync_job.errors import ConfigError, Exit
from sync_job.runs.doctor.check import Area, Check

_AREA = Area("configuration", Exit.CONFIG)


def load(file: Path) -> tuple[Settings | None, list[Check]]:
    """Return the settings as far as they can be known, secrets or not, and what is wrong with the file.

    Settings without secrets are enough to look at everything else; there are none where the file cannot be used.
    """
    try:
        settings = config.load(file)
    except ConfigError as exc:
        checks = [_AREA.problem("file", str(exc), "Mend what the lines name.")]
        try:
            return config.load_without_secrets(file), checks
        except ConfigError:
            return None, checks
    return settings, [_AREA.ok("file", f"{file.absolute()}: {settings.endpoint.target}")]


def look(file: Path, settings: Settings | None) -> Iterator[Check]:
    """Yield who may change the configuration, and the source of each secret."""
    if file.exists():
        yield _mode_of(file)
    for one in sources(settings):
        yield _secret(one)
    if settings is not None and settings.endpoint.tls.certificate:
        key = settings.endpoint.tls.key or settings.endpoint.tls.certificate
        yield _file("[endpoint.tls] key", key, "")


def _mode_of(file: Path) -> Check:
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o022:
        said = f"others may change {file.absolute()} (mode {mode:04o}), and so where consent and tokens go"
        return _AREA.warning("mode", said, f"chmod go-w {file.absolute()}")
    return _AREA.ok("mode", f"mode {mode:04o}, its owner alone may change it")


def _secret(one: Source) -> Check:
    if not one.given:
        cure = f"Set {one.variable}, or {one.variable}_FILE to the path of a file that holds it."
        return _AREA.problem(one.key, "missing, and the configuration needs it", cure)
    if len(one.given) > 1:
        said = f"both {' and '.join(one.given)} are set, and nobody can tell which counts"
        return _AREA.warning(one.key, said, f"Unset {one.given[0]}.")
    if one.file is not None:
        return _file(one.key, one.file, f"{one.given[0]} names ")
    if not os.environ[one.given[0]].strip():
        cure = f"Set it, or {one.variable}_FILE to the path of a file that holds it."
        return _AREA.problem(one.key, f"{one.given[0]} is empty", cure)
    return _AREA.ok(one.key, f"from the environment, {one.given[0]}")


def _file(what: str, file: Path, by: str) -> Check:
    """Return how a file with a secret is: there, not empty, and for its owner alone."""
    try:
        said = file.stat()
        with file.open("rb") as opened:
            empty = not opened.read(4096).strip()
    except OSError as exc:
        cure = f"Mend the path, or let this user read it: chown {os.geteuid()} {file}"
        return _AREA.problem(what, f"{by}{file}, which cannot be read: {exc.strerror or exc}", cure)
    mode = stat.S_IMODE(said.st_mode)
    where = f"{by}{file} (mode {mode:04o}, user {said.st_uid})"
    if empty:
        return _AREA.problem(what, f"{where}: the file is empty", "Write the secret into it.")
    if mode & 0o077:
        return _AREA.warning(what, f"{where}: others may read it", f"chmod 600 {file}")
    if said.st_uid not in (0, os.geteuid()):
        return _AREA.warning(what, f"{where}: it is another user's", f"chown {os.geteuid()} {file}")
    return _AREA.ok(what, where)
