"""A web server on loopback that others tell things to: it keeps what was posted, and answers as it is told."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Post(NamedTuple):
    """What was posted."""

    path: str
    content_type: str
    body: str

    @property
    def json(self) -> dict[str, Any]:
        """The body, as an object."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


class Listener:
    """What a listener heard, and how it answers: *script* has the next statuses, the last one for all that follow.

    A status of 0 is no answer at all, until the listener ends.
    """

    def __init__(self, port: int, script: list[int], ended: threading.Event) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.script = script
        self.ended = ended
        self.posts: list[Post] = []

    @property
    def paths(self) -> list[str]:
        """The paths, in the order in which they were posted to."""
        return [one.path for one in self.posts]


@contextmanager
def listening(*script: int) -> Iterator[Listener]:
    """Yield a server that answers 200, or as *script* says."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            listener.posts.append(Post(self.path, self.headers["Content-Type"], body.decode()))
            status = listener.script.pop(0) if len(listener.script) > 1 else listener.script[0]
            if not status:
                ended.wait(60)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{listener.url}/elsewhere")
            body = b"" if status == 204 else b"ok"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        listener = Listener(server.server_address[1], list(script) or [200], ended)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield listener
        finally:
            ended.set()
            server.shutdown()
            thread.join()
