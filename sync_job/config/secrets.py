"""Where secrets come from: the variable or the file that holds each, and never what it holds."""

import os
from dataclasses import dataclass
from pathlib import Path

from sync_job.config.loading import SECRET_HEADERS, SECRETS
from sync_job.config.sections import Settings
from sync_job.config.values import PREFIX


@dataclass(frozen=True)
class Source:
    """A secret: its key as people read it, its variable, and the variables that are set for it.

    *file* is the path in `…_FILE`. *needed*: the configuration does not do without it.
    """

    key: str
    variable: str
    needed: bool
    given: tuple[str, ...]
    file: Path | None = None


def sources(settings: Settings | None) -> list[Source]:
    """Return where each secret comes from that is needed or given; without *settings*, those that are given."""
    auth = settings.endpoint.auth.kind if settings else "none"
    needed = {"bearer": ("endpoint", "auth", "bearer"), "password": ("endpoint", "auth", "password")}.get(auth)
    found = [
        _source(f"[{'.'.join(path[:-1])}] {path[-1]}", PREFIX + "__".join(path).upper(), path == needed)
        for path in SECRETS
    ]
    for header in settings.endpoint.secret_headers if settings else ():
        variable = f"{SECRET_HEADERS}__{header.name.upper().replace('-', '_')}"
        found.append(_source(f"[endpoint] secret_headers {header.name}", variable, True))
    return [one for one in found if one.needed or one.given]


def _source(key: str, variable: str, needed: bool) -> Source:
    names = {name.upper(): name for name in os.environ}
    given = tuple(names[one] for one in (variable, f"{variable}_FILE") if one in names)
    file = Path(os.environ[given[-1]]) if given and given[-1].upper().endswith("_FILE") else None
    return Source(key, variable, needed, given, file)
