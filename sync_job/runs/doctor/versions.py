"""Which programs are at work: this one, Python, and the libraries that matter."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from sync_job.errors import Exit
from sync_job.runs.doctor.check import Area, Check

_AREA = Area("versions", Exit.CONFIG)
_LIBRARIES = ("aiohttp", "numpy", "pandas", "pyarrow", "pydantic", "cryptography", "typer")
# What is not needed by everybody, the module that shows that it is there, and what it is for.
_EXTRAS = {
    "remote": ("s3fs", "exports at s3://"),
    "holidays": ("holidays", "deadlines in business days"),
}


def look() -> Iterator[Check]:
    """Yield versions; a library that is missing is an installation to be mended."""
    yield _AREA.ok("consent-sync", f"{_version('consent-sync')}, Python {platform.python_version()}, {sys.executable}")
    yield _AREA.ok("platform", platform.platform())
    found = {name: _version(name) for name in _LIBRARIES}
    if missing := [name for name, said in found.items() if not said]:
        yield _AREA.problem("libraries", f"{', '.join(missing)} missing", "Install consent-sync again.")
    else:
        yield _AREA.ok("libraries", ", ".join(f"{name} {said}" for name, said in found.items()))
    for name, (module, purpose) in _EXTRAS.items():
        there = "there" if find_spec(module) else "not installed"
        yield _AREA.ok(f"extra {name}", f"{there} ({purpose})")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
