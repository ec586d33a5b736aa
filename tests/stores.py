"""Stores of files on loopback, for tests: a web server that knows ranges, or not, and a proxy that breaks off."""

import email.utils
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Files(ThreadingHTTPServer):
    """A web server of the files in *files*, which a test may change; it counts what it transferred."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._context = context
        self.port = self.server_address[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self.files: dict[str, bytes] = {}
        self.changed = 1.7e9
        self.ranges = True
        self.sized = True
        self.login = ""
        self.moved: dict[str, str] = {}
        self.answers: list[int] = []  # statuses to answer with first
        self.requests: list[tuple[str, str, str]] = []  # path, range, authorization
        self.sent_bytes = 0

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Return a connection that is spoken to as the context says."""
        found, address = super().get_request()
        if self._context:  # the handshake is left to the thread of the connection
            found = self._context.wrap_socket(found, server_side=True, do_handshake_on_connect=False)
        return found, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of who hung up."""


class _Handler(BaseHTTPRequestHandler):
    server: Files

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name is the library's
        pass

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        server.requests.append((self.path, wanted, self.headers.get("Authorization", "")))
        path = self.path.partition("?")[0]
        status = server.answers.pop(0) if server.answers else 0
        if path in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[path])
            self._end(b"")
            return
        content = server.files.get(path)
        if server.login and self.headers.get("Authorization") != server.login:
            status = 401
        if status or content is None:
            self.send_response(status or 404)
            self._end(b"")
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted) if server.ranges else None
        if found and int(found[1]) >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self._end(b"")
            return
        piece = content[int(found[1]) : int(found[2]) + 1] if found else content
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {found[1]}-{int(found[1]) + len(piece) - 1}/{len(content)}")
        self.send_header("Last-Modified", email.utils.formatdate(server.changed, usegmt=True))
        self.send_header("ETag", f'"{hash(content)}"')
        self._end(piece)

    def _end(self, body: bytes) -> None:
        if self.server.sized:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)
        self.server.sent_bytes += len(body)


@contextmanager
def files(context: ssl.SSLContext | None = None) -> Iterator[Files]:
    """Yield a web server."""
    server = Files(context)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class Proxy:
    """What stands between us and a server at *port*; it cuts a connection off behind so many bytes of answers."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.after_bytes: int | None = None  # none: never
        self.cuts = 0

    def serve(self) -> None:
        """Serve until the listener is closed."""
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(ours,), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _one(self, ours: socket.socket) -> None:
        with suppress(OSError), ours, socket.create_connection(("127.0.0.1", self._to)) as theirs:
            threading.Thread(target=self._pump, args=(ours, theirs), daemon=True).start()
            left = self.after_bytes
            while found := theirs.recv(1 << 16):
                if left is not None and len(found) > left:
                    ours.sendall(found[:left])
                    self.cuts += 1
                    ours.shutdown(socket.SHUT_RDWR)
                    return
                left = None if left is None else left - len(found)
                ours.sendall(found)
            ours.shutdown(socket.SHUT_WR)

    @staticmethod
    def _pump(ours: socket.socket, theirs: socket.socket) -> None:
        with suppress(OSError):
            while found := ours.recv(1 << 16):
                theirs.sendall(found)
            theirs.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """Yield a proxy to a server on loopback."""
    found = Proxy(port)
    thread = threading.Thread(target=found.serve, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.close()
        thread.join(5)
