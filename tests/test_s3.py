import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sync_job.config import ExportSettings
from sync_job.errors import ExportError, ExportIncompleteError
from sync_job.exports import loader, remote, s3, sources
from tests import stores

HEADER = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n"
ROWS = 20_000
TEXT = (HEADER + "".join(f"{i},{i % 2},1,0,0\n" for i in range(1, ROWS + 1))).encode()
BUCKET = "crm"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Return the port of an S3 on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


@pytest.fixture
def put(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return what puts objects into a new bucket; the environment says who we are and where the store is."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "us")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    files = s3.S3()._files
    files.mkdir(BUCKET)

    def put(key: str, content: bytes = TEXT) -> str:
        files.pipe_file(f"{BUCKET}/{key}", content)
        return f"s3://{BUCKET}/{key}"

    with mock.patch.object(remote, "WAIT_S", 0):
        yield put
    files.rm(BUCKET, recursive=True)


def _load(where: str, **keys: Any) -> loader.Export:
    settings = ExportSettings.model_validate({"as_of": "none"} | keys)
    return loader.load(settings, ZoneInfo("UTC"), where=where, first_look=True)


def _keys(where: str) -> list[str]:
    return [one.name.removeprefix(f"s3://{BUCKET}/") for one in sources.find(where, "auto")]


def test_an_object_is_an_export(put: Any) -> None:
    """Packed or not; its age is when it was put there."""
    assert _load(put("in/export.csv"), as_of="mtime").as_of == pytest.approx(time.time(), abs=60)
    export = _load(put("in/export.csv.gz", gzip.compress(TEXT)))
    assert (export.rows, export.inputs[0].compression) == (ROWS, "gzip")
    assert _load(put("in/a [1]?.csv")).rows == ROWS, "a key that exists is never a pattern"


def test_parquet_is_read_where_it_lies(put: Any) -> None:
    """From its end, and its columns here and there."""
    out = io.BytesIO()
    flags = dict.fromkeys(HEADER.strip().split(",")[1:], [True, False] * (ROWS // 2))
    pq.write_table(pa.table({"Client": list(range(1, ROWS + 1))} | flags), out, row_group_size=3000)
    export = _load(put("in/export", out.getvalue()))
    assert (export.rows, export.inputs[0].format) == (ROWS, "parquet")
    assert export.inputs[0].sha256 == hashlib.sha256(out.getvalue()).hexdigest()


def test_a_folder_and_a_glob_stand_for_their_objects(put: Any) -> None:
    """Of a folder those with an ending of exports, and those in partitions; nothing that is hidden."""
    for key in ("in/b.csv", "in/a.csv.gz", "in/_SUCCESS", "in/notes.md", "in/deep/c.csv", "in/dt=2026-11-24/d.csv"):
        put(key)
    for folder in ("in/", "in"):
        assert _keys(f"s3://{BUCKET}/{folder}") == ["in/a.csv.gz", "in/b.csv", "in/dt=2026-11-24/d.csv"]
    assert [one.partition for one in sources.find(f"s3://{BUCKET}/in/", "auto")] == [{}, {}, {"dt": "2026-11-24"}]
    assert _keys(f"s3://{BUCKET}/in/*") == ["in/a.csv.gz", "in/b.csv", "in/notes.md"]
    assert _keys(f"s3://{BUCKET}/in/**/*.csv") == ["in/b.csv", "in/deep/c.csv", "in/dt=2026-11-24/d.csv"]
    (found,) = sources.find(f"s3://{BUCKET}/in/dt=*/*.csv", "auto")
    assert found.partition == {"dt": "2026-11-24"}
    put("in/b.csv.gz")
    with pytest.raises(ExportError, match="the same file twice"):
        _keys(f"s3://{BUCKET}/in/")


@pytest.mark.parametrize("key", ["none.csv", "none/", "none/*.csv", "*.none", ""])
def test_nothing_to_read_is_an_error_that_names_it(put: Any, key: str) -> None:
    """It may still come."""
    with pytest.raises(ExportIncompleteError, match=re.escape(f"s3://{BUCKET}/{key}")):
        _load(f"s3://{BUCKET}/{key}")
    with pytest.raises(ExportIncompleteError, match=re.escape("s3://other/x.csv")):
        _load("s3://other/x.csv")


def test_an_address_without_a_bucket_is_told(put: Any) -> None:
    """And one with credentials, which do not belong there; they are not shown."""
    with pytest.raises(ExportError, match="not of the form s3://bucket/key"):
        _load("s3:///x.csv")
    with pytest.raises(ExportError, match=r"s3://\*\*\*@crm/x.csv: not of the form"):
        _load("s3://us:hush@crm/x.csv")


@pytest.mark.parametrize("after_bytes", [30_000, 6_000])
def test_a_connection_that_breaks_off_is_carried_on_with(
    put: Any, port: int, monkeypatch: pytest.MonkeyPatch, after_bytes: int
) -> None:
    """From where it was."""
    where = put("in/export.csv")
    with stores.proxy(port) as proxy:
        proxy.after_bytes = after_bytes
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        export = _load(where)
        assert proxy.cuts
    assert (export.rows, export.clients, export.rejects) == (ROWS, ROWS, 0)


def test_a_connection_that_never_gives_a_byte_is_an_error(put: Any, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few attempts, which the error counts."""
    where = put("in/export.csv")
    with stores.proxy(port) as proxy:
        proxy.after_bytes = 20
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(ExportError, match=r"5 times in a row. Check the network") as told:
            _load(where)
        assert remote.ATTEMPTS <= proxy.cuts <= 2 * remote.ATTEMPTS, "a look at an object is two requests"
    assert "hush" not in str(told.value)


def test_an_object_that_is_replaced_while_it_is_read_is_refused(put: Any) -> None:
    """By the store itself while it is read, and by what it says of it before and after."""
    source = sources.find(put("in/export.csv"), "auto")[0]
    with sources.unchanged(source):
        pass
    with pytest.raises(ExportError, match="changed while it was read"), sources.unchanged(source):
        put("in/export.csv", TEXT.swapcase())
    with source.place.open() as file:
        file.read(1)
        put("in/export.csv", TEXT)
        with pytest.raises(ExportError, match="changed while it was read"):
            file.read()
    with source.place.open() as file:
        file.read(1)
        put("in/export.csv", TEXT[:70_000])
        with pytest.raises(ExportError, match="changed while it was read"):
            file.read()


def test_no_credentials_are_told(put: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With where they come from."""
    where = put("in/export.csv")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ExportError, match="AWS_"):
        _load(where)


def test_without_the_extra_it_is_named() -> None:
    """What to install; nothing else of the product needs it."""
    code = """
        import sys
        sys.modules["s3fs"] = None
        from sync_job.errors import ExportError
        from sync_job.exports import sources
        try:
            sources.find("s3://crm/x.csv", "auto")
        except ExportError as exc:
            print(exc)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert "pip install consent-sync[remote]" in ended.stdout


def test_an_object_is_found_beside_another(put: Any) -> None:
    """In its folder, or above it."""
    put("in/_SUCCESS", b"x")
    place = sources.find(put("in/dt=1/export.csv"), "auto")[0].place
    assert place.beside("_SUCCESS") is None
    found = place.beside("_SUCCESS", 1)
    assert found is not None
    assert found.name == f"s3://{BUCKET}/in/_SUCCESS"
