"""A real nginx in front of an endpoint, with its limits, and what its access log says of the answers."""

import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

_PATIENCE_S = 10.0  # far more than starting or ending takes: beyond it something is broken
_TRIES = 5  # a port that was free may be taken by the time nginx binds it

# The temporary folders are all named: those that the package has built in are root's.
_CONFIG = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 4096; }}
http {{
    log_format told '$msec $status $request_time';
    access_log access.log told;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests {requests_per_connection};
    {zones}
    upstream behind {{
        server {behind} max_fails=0;
        keepalive 256;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        server_name all;
        location / {{
            {limits}
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


class Answered(NamedTuple):
    """One line of the access log: when the answer ended, as a Unix time, its status, and how long it all took."""

    at_s: float
    status: int
    took_s: float


class Nginx:
    """An nginx that `in_front_of` started."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder

    def answered(self) -> list[Answered]:
        """Return what was answered so far, by nginx itself or from behind it, oldest first.

        A line is written just after its answer: while nginx runs, the last few may be missing; afterwards none is.
        """
        whole = (self._folder / "access.log").read_text().rpartition("\n")[0]
        fields = (line.split() for line in whole.splitlines())
        return [Answered(float(at_s), int(status), float(took_s)) for at_s, status, took_s in fields]

    def statuses(self) -> Counter[int]:
        """Return how often each status was answered, with what `answered` says of the last few."""
        return Counter(one.status for one in self.answered())


@contextmanager
def in_front_of(
    url: str, folder: Path, *, zones: str = "", limits: str = "", requests_per_connection: int = 1000
) -> Iterator[Nginx]:
    """Run an nginx on a free port of the loopback that passes everything on to *url*, until the end of the block.

    *zones* are directives for its `http` part, as `limit_req_zone`, and *limits* for its `location`, as `limit_req`.
    The key `$server_name` counts all clients together, `$binary_remote_addr` each address.
    It keeps its connections to *url* open. Everything it writes is in *folder*, which must be there.
    """
    command = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if command is None:
        pytest.skip("the nginx command is missing, which limits requests as a real proxy does")
    for _ in range(_TRIES):
        port = _free_port()
        config = _CONFIG.format(
            # Started by root, its worker would become nobody, who may not enter a test's folder.
            user="user root;" if os.geteuid() == 0 else "",
            requests_per_connection=requests_per_connection,
            zones=zones,
            behind=url.removeprefix("http://"),
            port=port,
            limits=limits,
        )
        (folder / "nginx.conf").write_text(config)
        with subprocess.Popen(
            [command, "-p", f"{folder}/", "-c", "nginx.conf", "-e", "error.log"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child:
            try:
                if _accepts(child, folder / "nginx.pid", port):
                    yield Nginx(f"http://127.0.0.1:{port}", folder)
                    return
            finally:
                _end(child)
        said = (folder / "error.log").read_text()
        assert "Address already in use" in said, said
    pytest.fail(f"nginx found no free port in {_TRIES} tries")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _accepts(child: subprocess.Popen[bytes], pid: Path, port: int) -> bool:
    """Return whether nginx takes connections; it has ended if not."""
    end_s = time.monotonic() + _PATIENCE_S
    while child.poll() is None:
        assert time.monotonic() < end_s, "nginx did not start"
        # It writes its pid after it has bound the port: until then somebody else may answer there.
        if pid.exists():
            socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S).close()
            return True
        time.sleep(0.005)
    return False


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        raise
