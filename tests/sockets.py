"""Servers and an endpoint on loopback, for tests over real sockets, and certificates that nobody else trusts."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sync_job.config import EndpointSettings
from sync_job.consent.channels import parse_letters
from sync_job.delivery.endpoint import HttpEndpoint, connected

SENT = parse_letters("TF-T")
SUCCESS = b'{"ErrorCode":0}'
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def opened(url: str, timeout_s: float = 5.0, **settings: Any) -> AsyncIterator[HttpEndpoint]:
    """Yield the endpoint at *url*."""
    section = EndpointSettings.model_validate({"base_url": url} | settings)
    async with connected(section, max_concurrency=4, timeout_s=timeout_s) as endpoint:
        yield endpoint


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port of a server that does to each connection what *serve* does; at the end none is left open."""
    open_: dict[asyncio.Task[object] | None, asyncio.StreamWriter] = {}

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_[asyncio.current_task()] = writer
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            del open_[asyncio.current_task()]

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=context)
    try:
        async with server:
            yield server.sockets[0].getsockname()[1]
    finally:
        tasks = [task for task in open_ if task is not None]
        for writer in open_.values():
            writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=5)


async def request(reader: asyncio.StreamReader) -> bytes:
    """Return one request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return head + await reader.readexactly(length)


def raw(body: bytes, content_type: bytes = b"application/json", *more: bytes) -> bytes:
    """Return an answer as a server writes it."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: " + content_type, b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def delivering(seen: list[bytes]) -> Serve:
    """Return a server that keeps each request in *seen*, and answers that the change was delivered."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen.append(await request(reader))
                writer.write(raw(SUCCESS))
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    return serve


class Authority:
    """A private CA, made by the openssl command; without it the test is skipped."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        command = shutil.which("openssl")
        if command is None:
            pytest.skip("the openssl command is missing, which makes the certificates")
        self._command = command
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._openssl("req", "-x509", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.certificate)

    def sign(self, name: str, *extension: str, days: int = 2) -> tuple[Path, Path]:
        """Return certificate and key for *name*, signed by this CA, good for so many *days*; -1 expired yesterday."""
        key, wish, signed, more = (self._folder / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
        more.write_text("\n".join(extension))
        self._openssl("req", *_NEW_KEY[:-2], "-subj", f"/CN={name}", "-keyout", key, "-out", wish)
        ours = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial")
        self._openssl("x509", "-req", "-in", wish, *ours, "-days", days, "-extfile", more, "-out", signed)
        return signed, key

    def server(self) -> ssl.SSLContext:
        """Return the context of a server at 127.0.0.1."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.sign("server", "subjectAltName=IP:127.0.0.1"))
        return context

    def encrypt(self, key: Path, password: str) -> Path:
        """Return a copy of *key* that only *password* opens."""
        encrypted = key.with_suffix(".encrypted")
        self._openssl("ec", "-in", key, "-aes256", "-passout", f"pass:{password}", "-out", encrypted)
        return encrypted

    def _openssl(self, *arguments: object) -> None:
        subprocess.run([self._command, *map(str, arguments)], check=True, capture_output=True)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
