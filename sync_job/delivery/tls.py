"""How https is spoken: whom we trust and who we are, from `[endpoint.tls]`; the connection itself is aiohttp's."""

import ssl
from pathlib import Path

from sync_job.config import PREFIX, EndpointSettings, TlsSettings
from sync_job.errors import ConfigError

_CERTIFICATE, _KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"
# What a server says, in OpenSSL's words, when it does not like who we are.
_UNWELCOME = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR")


def context(settings: EndpointSettings) -> ssl.SSLContext | None:
    """Return what https connections are made with, or none for plain http: TLS 1.2 at least, always verified.

    Raises:
        ConfigError: naming the key and file that cannot be used.
    """
    if not settings.base_url.startswith("https:"):
        return None
    files = settings.tls
    if files.ca:
        _hold(files.ca, "ca", _CERTIFICATE)
    try:
        made = ssl.create_default_context(cafile=files.ca)
    except ssl.SSLError as exc:
        raise ConfigError(f"[endpoint.tls] ca: {files.ca} holds no certificates that can be read: {exc}.") from exc
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(("http/1.1",))
    if files.certificate:
        _identify(made, files, files.certificate)
    return made


def _identify(made: ssl.SSLContext, files: TlsSettings, certificate: Path) -> None:
    """Have *made* show our certificate to whoever asks for one."""
    key = files.key or certificate
    where = f"[endpoint.tls] key: {key}"
    _hold(certificate, "certificate", _CERTIFICATE)
    _hold(key, "key", _KEY)
    encrypted = False

    def password() -> bytes:
        # Without an answer here OpenSSL would ask at the terminal, and cron has none.
        nonlocal encrypted
        encrypted = True
        return files.key_password.get_secret_value().encode() if files.key_password else b""

    variable = f"{PREFIX}ENDPOINT__TLS__KEY_PASSWORD"
    try:
        made.load_cert_chain(certificate, key, password)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{where} is not the key of the certificate in {certificate}.") from exc
        if encrypted and not files.key_password:
            raise ConfigError(f"{where} is encrypted: set {variable}, or {variable}_FILE.") from None
        if encrypted:
            raise ConfigError(f"{where} does not open with {variable}.") from None
        raise ConfigError(f"[endpoint.tls] certificate: {certificate} with key {key} cannot be used: {exc}.") from exc
    except ValueError as exc:  # a password too long for OpenSSL
        raise ConfigError(f"{where} does not open with {variable}: {exc}.") from None


def _hold(path: Path, key: str, mark: bytes) -> None:
    """Refuse a file that cannot be read, or does not hold in PEM what *key* is for."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"[endpoint.tls] {key}: {path} cannot be read: {exc.strerror or exc}. Mend the path or the file's mode."
        ) from exc
    if mark not in content:
        what = "certificate" if mark is _CERTIFICATE else "private key"
        raise ConfigError(f"[endpoint.tls] {key}: {path} holds no {what} in PEM.")


def unwelcome(exc: BaseException) -> str:
    """Return the server's alert that it does not accept our certificate, or misses one; "" for anything else.

    With TLS 1.3 the alert comes after our side has finished the handshake, as an error of the connection. A server
    that sends it has read nothing of the request.
    """
    seen: list[BaseException] = []
    inner: BaseException | None = exc
    while inner is not None and inner not in seen:
        seen.append(inner)
        reason = getattr(inner, "reason", None) if isinstance(inner, ssl.SSLError) else None
        if isinstance(reason, str) and "ALERT" in reason and any(word in reason for word in _UNWELCOME):
            return reason
        inner = inner.__cause__ or inner.__context__
    return ""
