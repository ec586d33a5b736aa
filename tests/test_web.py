import base64
import gzip
import hashlib
import io
import re
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sync_job.config import ExportSettings
from sync_job.errors import ExportError, ExportIncompleteError
from sync_job.exports import loader, naming, remote, sources, web
from sync_job.exports.spool import Spooled
from tests import stores
from tests.sockets import Authority

HEADER = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n"
ROWS = 20_000
TEXT = (HEADER + "".join(f"{i},{i % 2},1,0,0\n" for i in range(1, ROWS + 1))).encode()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody waits before another try; no proxy of this machine is used."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with mock.patch.object(remote, "WAIT_S", 0):
        yield


@pytest.fixture
def server() -> Iterator[stores.Files]:
    """Return a web server with an export."""
    with stores.files() as found:
        found.files["/in/export.csv"] = TEXT
        yield found


def _load(where: str, **keys: Any) -> loader.Export:
    settings = ExportSettings.model_validate({"as_of": "none"} | keys)
    return loader.load(settings, ZoneInfo("UTC"), where=where, first_look=True)


def _parquet() -> bytes:
    out = io.BytesIO()
    random = np.random.default_rng(1)
    flags: dict[str, Any] = dict.fromkeys(HEADER.strip().split(",")[1:], random.integers(0, 2, ROWS).astype(bool))
    other = [random.bytes(400) for _ in range(ROWS)]  # what nobody asks for, and takes nearly all of the file
    pq.write_table(pa.table({"Client": np.arange(1, ROWS + 1), "other": other} | flags), out, row_group_size=5000)
    return out.getvalue()


PACKED = io.BytesIO()
with zipfile.ZipFile(PACKED, "w", zipfile.ZIP_DEFLATED) as _archive:
    _archive.writestr("export.csv", TEXT)


@pytest.mark.parametrize(
    "content", [TEXT, gzip.compress(TEXT), PACKED.getvalue(), _parquet()], ids=["csv", "gzip", "zip", "parquet"]
)
@pytest.mark.parametrize("after_bytes", [None, 20_000, 6_000])
def test_a_connection_that_breaks_off_is_carried_on_with(
    server: stores.Files, content: bytes, after_bytes: int | None
) -> None:
    """From where it was, in whatever format: the table and the digest are those of the whole file."""
    server.files["/in/export.csv"] = content
    with stores.proxy(server.port) as proxy:
        proxy.after_bytes = after_bytes
        export = _load(f"http://127.0.0.1:{proxy.port}/in/export.csv")
        assert bool(proxy.cuts) == (after_bytes is not None and after_bytes < len(content))
    assert (export.rows, export.clients, export.rejects) == (ROWS, ROWS, 0)
    assert export.inputs[0].sha256 == hashlib.sha256(content).hexdigest()
    # What had come already is not asked for again.
    assert server.sent_bytes < 6 * len(content) + 100_000 or after_bytes is not None


@pytest.mark.parametrize("after_bytes", [0, 50])
def test_a_connection_that_never_gives_a_byte_is_an_error(server: stores.Files, after_bytes: int) -> None:
    """After a few attempts, which the error counts."""
    with stores.proxy(server.port) as proxy:
        proxy.after_bytes = after_bytes
        with pytest.raises(ExportError, match=r"broke off.*, 5 times in a row. Check the network"):
            _load(f"http://127.0.0.1:{proxy.port}/in/export.csv")
        assert proxy.cuts >= remote.ATTEMPTS - 1
    assert server.sent_bytes < 100


def test_attempts_wait_longer_each_time(server: stores.Files) -> None:
    """By the sleep that is given; a server that is overloaded is left alone meanwhile."""
    waited: list[float] = []
    server.answers = [503, 429, 500, 502]
    with mock.patch.object(remote, "WAIT_S", 1.0):
        assert web.place(f"{server.url}/in/export.csv", waited.append).size_bytes() == len(TEXT)
    assert len(waited) == 4
    assert all(0 <= seconds <= 2**place for place, seconds in enumerate(waited))
    server.answers = [503] * 5
    with pytest.raises(ExportError, match="the server answers 503, 5 times in a row"):
        web.place(f"{server.url}/in/export.csv", waited.append)


@pytest.mark.parametrize(
    ("status", "words"), [(404, "no such file"), (401, "does not let us in"), (403, "run out"), (418, "answers 418")]
)
def test_a_no_is_not_asked_again(server: stores.Files, status: int, words: str) -> None:
    """One request; what is not there may still come."""
    server.answers = [status] * 9
    with pytest.raises(ExportError, match=words) as told:
        _load(f"{server.url}/in/export.csv")
    assert isinstance(told.value, ExportIncompleteError) == (status == 404)
    assert len(server.requests) == 1


def test_nobody_there_is_an_error(server: stores.Files) -> None:
    """A port that nobody listens at, and a name that nobody has."""
    server.server_close()
    with pytest.raises(ExportError, match="no connection"):
        _load(f"{server.url}/in/export.csv")


@pytest.mark.parametrize("what", ["content", "time", "shorter"])
def test_a_file_that_changes_while_it_is_read_is_refused(server: stores.Files, what: str) -> None:
    """Other bytes of the same length, another time, fewer bytes: between any two requests."""
    url = f"{server.url}/in/export.csv"
    source = sources.find(url, "auto")[0]

    def change() -> None:
        if what == "time":
            server.changed += 1
        server.files["/in/export.csv"] = {"content": TEXT.swapcase(), "time": TEXT, "shorter": TEXT[:70_000]}[what]

    with sources.unchanged(source):
        pass
    with pytest.raises(ExportError, match="changed while it was read"), sources.unchanged(source):
        change()
    server.files["/in/export.csv"] = TEXT
    with source.place.open() as file:
        file.read(1)
        change()
        with pytest.raises(ExportError, match="changed while it was read"):
            file.read()


def test_the_age_is_last_modified(server: stores.Files) -> None:
    """Where the server says it; in its name, where the configuration says so."""
    assert _load(f"{server.url}/in/export.csv", as_of="mtime").as_of == server.changed
    server.files["/in/crm_2026-11-24.csv"] = TEXT
    found = _load(f"{server.url}/in/crm_2026-11-24.csv?sig=2020-01-01", as_of="filename:%Y-%m-%d")
    assert found.as_of == 1795478400.0


def test_few_bytes_of_a_parquet_file_are_transferred(server: stores.Files) -> None:
    """The columns that are mapped, though most of the file is another one; its digest takes all of it once more."""
    server.files["/in/export.csv"] = content = _parquet()
    source = sources.find(f"{server.url}/in/export.csv", "auto")[0]
    before = server.sent_bytes
    with source.place.open() as file, pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as parquet:
        assert parquet.read(["Client", "AllowSms"]).num_rows == ROWS
    assert server.sent_bytes - before < len(content) // 4


def test_a_large_file_takes_little_memory(server: stores.Files) -> None:
    """A few pieces of it at a time, ours and the server's, which is in this process."""
    server.files["/in/export.csv"] = content = TEXT * 200
    place = web.place(f"{server.url}/in/export.csv")
    tracemalloc.start()
    with place.open() as file:
        length = 0
        while piece := file.read(1 << 20):
            length += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length == len(content) > 40 << 20
    assert peak < 20 << 20
    # The pieces grow: a large file takes few requests.
    assert len(server.requests) < 25


def test_an_empty_file_is_told(server: stores.Files) -> None:
    """As anywhere."""
    server.files["/in/export.csv"] = b""
    with pytest.raises(ExportIncompleteError, match="the file is empty"):
        _load(f"{server.url}/in/export.csv")


def test_a_server_without_ranges_is_read_once(server: stores.Files) -> None:
    """What it sends is kept, and checked to be all of it."""
    server.ranges = False
    export = _load(f"{server.url}/in/export.csv", as_of="mtime")
    assert (export.rows, export.as_of) == (ROWS, server.changed)
    assert isinstance(web.place(f"{server.url}/in/export.csv"), Spooled)
    with stores.proxy(server.port) as proxy:
        proxy.after_bytes = len(TEXT) // 2
        with pytest.raises(ExportError, match="broke off, and the server cannot carry on"):
            _load(f"http://127.0.0.1:{proxy.port}/in/export.csv")
    server.sized = False
    with pytest.raises(ExportError, match="does not say how long the file is"):
        _load(f"{server.url}/in/export.csv")


def test_secrets_of_an_address_are_used_and_not_shown(server: stores.Files) -> None:
    """User and password go to the server; neither they nor a signature are in names, errors or counts."""
    server.login = "Basic " + base64.b64encode(b"crm:hush/1").decode()
    url = f"http://crm:hush%2F1@127.0.0.1:{server.port}/in/export.csv?X-Amz-Signature=hush2"
    counts = _load(url).counts()
    assert counts["inputs"][0]["path"] == f"http://***@127.0.0.1:{server.port}/in/export.csv?***"
    assert "hush" not in str(counts)
    assert server.requests[0][0] == "/in/export.csv?X-Amz-Signature=hush2"
    for wrong in (url.replace("export.csv", "none.csv"), url.replace("crm", "other"), "ftp" + url[4:]):
        with pytest.raises(ExportError, match="in/") as told:
            _load(wrong)
        assert "hush" not in str(told.value)
    server.files["/in/export.csv"] = HEADER.encode()
    with pytest.raises(ExportError, match="no rows") as told:
        _load(url)
    assert "hush" not in str(told.value)


def test_a_password_goes_to_nobody_else(server: stores.Files) -> None:
    """A server that sends us on gets it, and the other one does not."""
    with stores.files() as other:
        other.files["/x.csv"] = TEXT
        server.moved["/in/export.csv"] = f"{other.url}/x.csv"
        assert _load(f"http://crm:hush@127.0.0.1:{server.port}/in/export.csv").rows == ROWS
        assert {one[2] for one in other.requests} == {""}
        assert all(one[2].startswith("Basic ") for one in server.requests)


def test_plain_http_is_for_this_machine_alone() -> None:
    """Consent that anybody on the way could change is not read."""
    with pytest.raises(ExportError, match=r"plain http.*Use https"):
        _load("http://crm.example.com/export.csv")


def test_https_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SSL_CERT_FILE where that is set; it does not lead back to plain http."""
    authority = Authority(tmp_path)
    with stores.files(authority.server()) as server:
        server.files["/export.csv"] = TEXT
        with pytest.raises(ExportError, match="certificate is not trusted"):
            _load(f"{server.url}/export.csv")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        with stores.proxy(server.port) as proxy:
            proxy.after_bytes = 30_000
            assert _load(f"https://127.0.0.1:{proxy.port}/export.csv").rows == ROWS
            assert proxy.cuts
        server.moved["/export.csv"] = "http://127.0.0.1:9/export.csv"
        with pytest.raises(ExportError, match="on to plain http"):
            _load(f"{server.url}/export.csv")


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("a?b.csv", "a?b.csv"),
        ("https://h/a.csv", "https://h/a.csv"),
        ("https://u:p@h:1/a.csv?s=1#f", "https://***@h:1/a.csv?***"),
        ("https://h/a@b.csv", "https://h/a@b.csv"),
        ("s3://bucket/a?b@c.csv", "s3://bucket/a?b@c.csv"),
        ("s3://key:secret@bucket/a.csv", "s3://***@bucket/a.csv"),
    ],
)
def test_what_lets_others_in_is_not_shown(where: str, shown: str) -> None:
    """User, password and query of an address; a path is shown as it is."""
    assert naming.shown(where) == shown


def test_an_address_of_another_kind_is_told() -> None:
    """With those that are known."""
    with pytest.raises(ExportError, match=re.escape("nothing speaks ftp:// here. An address begins with s3://")):
        _load("ftp://h/a.csv")
