"""Objects of S3 and what speaks like it. Who we are is told by the environment (AWS_*), never by the configuration."""

import errno
import glob
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from sync_job.errors import ExportError, ExportIncompleteError
from sync_job.exports import naming
from sync_job.exports.remote import About, BrokenError, RemoteFile, insist

_PREFIX = "s3://"
_CHANGED = ("PreconditionFailed", "412", "InvalidRange", "416")  # another content, or a shorter one


class S3:
    """The store that the environment names: AWS, or what AWS_ENDPOINT_URL says."""

    def __init__(self) -> None:
        try:
            import fsspec.asyn
            import s3fs
        except ImportError as exc:
            raise ExportError(
                "s3:// needs what is not installed. Install it with `pip install consent-sync[remote]`."
            ) from exc
        self._wait = fsspec.asyn.sync
        # We try again ourselves, and an object that is new or another is never one that was listed before.
        self._files: Any = s3fs.S3FileSystem(
            config_kwargs={"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60},
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self._files.retries = 1

    def about(self, address: str) -> About:
        """Return what the store says of an object.

        Raises:
            ExportIncompleteError: when there is none. ExportError: when the store says no.
            BrokenError: when it does not answer.
        """
        found = self.entry(address)
        if found["type"] != "file":
            raise ExportIncompleteError(
                f"{address}: no such object. Check the address, and whether the export has run."
            )
        changed = found.get("LastModified")
        return About(found["size"], changed.timestamp() if changed else None, found.get("ETag", ""))

    def entry(self, address: str) -> dict[str, Any]:
        """Return what the store says of an object, or of a folder."""
        with _saying(address):
            found: dict[str, Any] = self._files.info(address)
            return found

    def read(self, address: str, about: About, start: int, stop: int) -> bytes:
        """Return the bytes from *start* on up to *stop*, at least one, as long as the object is as *about* says.

        Raises:
            ExportError: when it is not any more. BrokenError: when nothing came.
        """
        bucket, _, key = address.removeprefix(_PREFIX).partition("/")
        with _saying(address):
            found: bytes = self._wait(self._files.loop, self._piece, bucket, key, about.version, start, stop)
        if not found:
            raise BrokenError("the connection broke off")
        return found

    async def _piece(self, bucket: str, key: str, version: str, start: int, stop: int) -> bytes:
        import aiohttp

        asked = {"IfMatch": version} if version else {}
        answer = await self._files._call_s3(
            "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **asked
        )
        found, body = bytearray(), answer["Body"]
        try:
            while piece := await body.read(1 << 16):
                found += piece
        except (aiohttp.ClientError, OSError):
            pass  # What came is good: the next piece begins behind it.
        finally:
            body.close()
        return bytes(found)

    def beside(self, address: str, name: str, up: int) -> str | None:
        """Return the address of the object of that name so many folders above; none where there is none."""
        other = "/".join([*address.split("/")[: -1 - up], name])
        try:
            self.about(other)
        except ExportIncompleteError:
            return None
        return other

    def below(self, address: str) -> list[str]:
        """Return the addresses of all objects in a folder, and in its folders."""
        with _saying(address):
            found = self._files.find(address)
        return [f"{_PREFIX}{one}" for one in found]

    def matching(self, pattern: str) -> list[str]:
        """Return the addresses of the objects that a glob matches."""
        with _saying(pattern):
            found = self._files.glob(pattern, detail=True)
        return [f"{_PREFIX}{one}" for one, entry in found.items() if entry["type"] == "file"]


def places(address: str, sleep: Callable[[float], None] = time.sleep) -> list[RemoteFile]:
    """Return the objects that an address names: one, a glob, or a folder; in the order of their names.

    Raises:
        ExportError: when the store says no, or does not answer; when there is none the list is empty.
    """
    store = S3()

    def ask() -> list[RemoteFile]:
        bucket, _, key = address.removeprefix(_PREFIX).partition("/")
        if not bucket or "@" in bucket:
            raise ExportError(f"{naming.shown(address)}: not of the form s3://bucket/key.")
        entry = None
        try:
            entry = store.entry(address) if key and not key.endswith("/") else None
        except ExportIncompleteError:
            if not glob.has_magic(address):
                raise
        if entry and entry["type"] == "file":
            return [RemoteFile(store, address, sleep=sleep)]
        if entry is None and glob.has_magic(address):
            parts = address.split("/")
            base = "/".join(parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))])
            found = [RemoteFile(store, one, one.removeprefix(f"{base}/"), sleep) for one in store.matching(address)]
            asked = any(part.startswith(("_", ".")) for part in PurePosixPath(address.removeprefix(f"{base}/")).parts)
            return [one for one in found if asked or not naming.is_hidden(one.below)]
        base = address.rstrip("/")
        found = [RemoteFile(store, one, one.removeprefix(f"{base}/"), sleep) for one in store.below(address)]
        return [one for one in found if naming.in_folder(one.below)]

    return sorted(insist(ask, naming.shown(address), sleep=sleep), key=lambda one: one.address)


@contextmanager
def _saying(address: str) -> Iterator[None]:
    """Turn what the store says into our errors."""
    import aiohttp
    import botocore.exceptions as said

    try:
        yield
    except FileNotFoundError as exc:
        raise ExportIncompleteError(
            f"{address}: no such object or bucket. Check the address, and whether the export has run."
        ) from exc
    except PermissionError as exc:
        raise ExportError(f"{address}: the store does not let us in ({exc}). Who we are is said by AWS_*.") from exc
    except (
        said.NoCredentialsError,
        said.PartialCredentialsError,
        said.ProfileNotFound,
        said.ParamValidationError,
    ) as exc:
        raise ExportError(f"{address}: {exc}. Who we are is said by AWS_* in the environment.") from exc
    except (OSError, aiohttp.ClientError, said.BotoCoreError, said.ClientError) as exc:
        answer = getattr(exc.__cause__, "response", {})
        if answer.get("Error", {}).get("Code") in _CHANGED:
            raise ExportError(
                f"{address}: the file changed while it was read. Run again when the export is complete."
            ) from exc
        if isinstance(exc, OSError) and exc.errno == errno.EINVAL:  # what is wrong with what we ask
            raise ExportError(f"{address}: the store refuses it ({exc}).") from exc
        raise BrokenError(f"no answer ({(str(exc).splitlines() or [''])[0] or type(exc).__name__})") from exc
