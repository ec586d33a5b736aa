"""https: whom we trust, who we are, and files that cannot be used are named before anything is sent."""

import asyncio
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sync_job.config import EndpointSettings
from sync_job.delivery import tls
from sync_job.delivery.verdict import Answer, Codes, Failure, Kind, judge
from sync_job.errors import ConfigError, Exit
from tests.sockets import SENT, Authority, delivering, opened, serving


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return a private CA."""
    return Authority(tmp_path_factory.mktemp("ca"))


def settings(url: str = "https://loyalty.example.com", **files: Any) -> EndpointSettings:
    """Return the settings of an endpoint with these files."""
    return EndpointSettings.model_validate({"base_url": url, "tls": files})


def wrong(**files: Any) -> str:
    """Return what the error says about these files."""
    with pytest.raises(ConfigError) as caught:
        tls.context(settings(**files))
    assert caught.value.exit_code is Exit.CONFIG
    return str(caught.value)


def attempts(context: ssl.SSLContext, count: int = 1, **files: Any) -> tuple[list[Answer], list[bytes]]:
    """Return the answers of a server with this context to so many attempts, and the requests it got."""
    seen: list[bytes] = []

    async def main() -> list[Answer]:
        async with (
            serving(delivering(seen), context) as port,
            opened(f"https://127.0.0.1:{port}", tls=files) as endpoint,
        ):
            return [await endpoint.attempt(1, SENT) for _ in range(count)]

    return asyncio.run(main()), seen


def test_plain_http_has_no_context() -> None:
    """There is nothing to verify."""
    assert tls.context(settings("http://127.0.0.1")) is None


def test_default_verifies_by_the_system_and_takes_no_old_version() -> None:
    """Without any setting."""
    found = tls.context(settings())
    assert found is not None
    assert found.verify_mode is ssl.CERT_REQUIRED
    assert found.check_hostname
    assert found.minimum_version is ssl.TLSVersion.TLSv1_2


def test_private_ca_is_trusted_instead_of_the_systems(authority: Authority) -> None:
    """With it the change is delivered; the system's CAs are not trusted any more."""
    answers, _ = attempts(authority.server(), 2, ca=authority.certificate)
    assert [(answer.status, answer.reused) for answer in answers] == [(200, False), (200, True)]
    made = tls.context(settings(ca=authority.certificate))
    assert made is not None
    assert [one["subject"] for one in made.get_ca_certs()] == [((("commonName", "ca"),),)]


def test_without_its_ca_the_endpoint_is_not_who_it_says(authority: Authority) -> None:
    """Nothing is sent, and the run stops."""
    (answer,), seen = attempts(authority.server())
    assert answer.failure is Failure.CERTIFICATE
    assert judge(answer, Codes(), good_before=True).kind is Kind.STOP
    assert not seen


def test_another_ca_does_not_do(authority: Authority, tmp_path: Path) -> None:
    """A certificate of somebody else's CA is refused."""
    (answer,), _ = attempts(authority.server(), ca=Authority(tmp_path).certificate)
    assert answer.failure is Failure.CERTIFICATE


@contextmanager
def blocking(context: ssl.SSLContext) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the port of a server that says why it refuses a handshake, as asyncio's does not, and what it read."""
    read: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection.dup() as below:
                        with suppress(OSError), context.wrap_socket(connection, server_side=True) as spoken:
                            read.append(spoken.recv(65536))
                        # A server that hangs up on bytes it has not read resets, and the alert may be lost.
                        with suppress(OSError):
                            while below.recv(65536):
                                pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], read
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def refused(context: ssl.SSLContext, **files: Any) -> Answer:
    """Return the answer of a server that refuses the handshake, which has to stop the run with nothing read."""

    async def main(port: int) -> Answer:
        async with opened(f"https://127.0.0.1:{port}", tls=files) as endpoint:
            return await endpoint.attempt(1, SENT)

    with blocking(context) as (port, read):
        answer = asyncio.run(main(port))
    assert not any(read)
    verdict = judge(answer, Codes(), good_before=True)
    assert (verdict.kind, verdict.doubt) == (Kind.STOP, False)
    assert "check [endpoint.tls]" in verdict.why
    return answer


def test_old_tls_is_refused(authority: Authority) -> None:
    """A server that speaks TLS 1.1 and nothing newer is not spoken to, and the run stops."""
    context = authority.server()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert refused(context, ca=authority.certificate).failure is Failure.CERTIFICATE


def mutual(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return the context of a server that wants a certificate of the same CA."""
    context = authority.server()
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    return context


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
@pytest.mark.parametrize("form", ["two files", "one file", "encrypted"])
def test_our_certificate_is_shown(authority: Authority, version: ssl.TLSVersion, form: str, tmp_path: Path) -> None:
    """With its key beside it, in the same file, or encrypted."""
    certificate, key = authority.sign("client")
    files: dict[str, Any] = {"certificate": certificate, "key": key}
    if form == "one file":
        both = tmp_path / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        files = {"certificate": both}
    elif form == "encrypted":
        files |= {"key": authority.encrypt(key, "hush"), "key_password": SecretStr("hush")}
    answers, _ = attempts(mutual(authority, version), ca=authority.certificate, **files)
    assert [answer.status for answer in answers] == [200]


@VERSIONS
@pytest.mark.parametrize("stranger", [False, True])
def test_missing_or_foreign_certificate_stops_the_run(
    authority: Authority, version: ssl.TLSVersion, stranger: bool, tmp_path: Path
) -> None:
    """The server's alert is named, with the keys to look at."""
    files: dict[str, Any] = {"ca": authority.certificate}
    if stranger:
        certificate, key = Authority(tmp_path, "another").sign("stranger")
        files |= {"certificate": certificate, "key": key}
    answer = refused(mutual(authority, version), **files)
    if stranger or version is ssl.TLSVersion.TLSv1_3:
        assert answer.failure is Failure.NOT_AUTHORISED
        assert "certificate and key" in answer.detail
    else:
        assert answer.failure is Failure.CERTIFICATE, "the alert of TLS 1.2 does not say what is missing"


@pytest.mark.parametrize("key", ["ca", "certificate"])
def test_file_that_is_not_there_is_named(tmp_path: Path, key: str) -> None:
    """Key, path and reason."""
    said = wrong(**{key: tmp_path / "none.pem"})
    assert said.startswith(f"[endpoint.tls] {key}: {tmp_path / 'none.pem'} cannot be read: No such file")


def test_key_that_is_not_there_is_named(authority: Authority, tmp_path: Path) -> None:
    """Not the certificate, which is."""
    certificate, _ = authority.sign("client")
    said = wrong(certificate=certificate, key=tmp_path)
    assert said.startswith(f"[endpoint.tls] key: {tmp_path} cannot be read")


@pytest.mark.parametrize("key", ["ca", "certificate"])
def test_file_that_is_something_else_is_named(tmp_path: Path, key: str) -> None:
    """A DER file, for example."""
    path = tmp_path / "file"
    path.write_bytes(b"\x30\x82")
    assert wrong(**{key: path}) == f"[endpoint.tls] {key}: {path} holds no certificate in PEM."


@pytest.mark.parametrize("key", ["ca", "certificate"])
def test_garbled_file_is_named(authority: Authority, tmp_path: Path, key: str) -> None:
    """What looks like PEM, and is none."""
    path, good = tmp_path / "file", authority.sign("client")[1]
    path.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    said = wrong(**{key: path} | ({"key": good} if key == "certificate" else {}))
    assert said.startswith(f"[endpoint.tls] {key}: {path} ")


def test_certificate_without_its_key_is_named(authority: Authority) -> None:
    """The certificate's file has no key, and no other is named."""
    certificate, _ = authority.sign("client")
    assert wrong(certificate=certificate) == f"[endpoint.tls] key: {certificate} holds no private key in PEM."


def test_key_of_another_certificate_is_named(authority: Authority) -> None:
    """Two files that do not belong together."""
    certificate, _ = authority.sign("client")
    other = authority.sign("other")[1]
    assert (
        wrong(certificate=certificate, key=other)
        == f"[endpoint.tls] key: {other} is not the key of the certificate in {certificate}."
    )


def test_encrypted_key_needs_its_password(authority: Authority) -> None:
    """Without one the variable is named, and nobody is asked at the terminal; a wrong one is not repeated."""
    certificate, key = authority.sign("client")
    encrypted = authority.encrypt(key, "right")
    variable = "CONSENT_SYNC__ENDPOINT__TLS__KEY_PASSWORD"
    assert f"{encrypted} is encrypted: set {variable}" in wrong(certificate=certificate, key=encrypted)
    for password in ("hush", "hush" * 1000):
        said = wrong(certificate=certificate, key=encrypted, key_password=SecretStr(password))
        assert f"{encrypted} does not open with {variable}" in said
        assert "hush" not in said
