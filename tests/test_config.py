"""Settings come from flags, environment and file in that order, and a wrong one is named with its cure."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from sync_job import config
from sync_job.config import PREFIX, Settings
from sync_job.errors import ConfigError, Exit

LEAST = """
[export]
as_of = "none"
[endpoint]
base_url = "https://loyalty.example.com/partner"
"""


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what the machine has in its environment."""
    import os

    for name in [one for one in os.environ if one.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a configuration with what is required and nothing else."""
    path = tmp_path / "nightly.toml"
    path.write_text(LEAST)
    return path


def wrong(file: Path, text: str = "") -> str:
    """Return what the error says when *text* is added to the file."""
    file.write_text(LEAST + text)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert caught.value.exit_code is Exit.CONFIG
    return str(caught.value)


def with_url(file: Path, url: str) -> Settings:
    """Return the settings with this base_url."""
    file.write_text(LEAST.replace("https://loyalty.example.com/partner", url))
    return config.load(file)


def test_unknown_key_names_the_nearest(file: Path) -> None:
    """A misspelled key is an error that says which one was meant, and in which section."""
    said = wrong(file, "[delivery]\nmax_concurency = 4\n")
    assert "[delivery] max_concurency: unknown key; did you mean 'max_concurrency'?" in said
    assert str(file) in said


def test_unknown_key_like_no_other_lists_the_known(file: Path) -> None:
    """A key that resembles none is an error that lists what there is."""
    assert "unknown key; known are timezone" in wrong(file, "[run]\nxyzzy = 1\n")


def test_unknown_section_names_the_nearest(file: Path) -> None:
    """A misspelled section is an error that says which one was meant."""
    assert "[raport]: unknown key; did you mean 'report'?" in wrong(file, '[raport]\npath = "x"\n')


def test_unknown_key_of_a_nested_section_names_the_nearest(file: Path) -> None:
    """A misspelled column is an error that names the section in full."""
    assert "[export.columns] AlowSms: unknown key; did you mean 'AllowSms'?" in wrong(
        file, '[export.columns]\nAlowSms = "x"\n'
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[delivery]\nmax_concurrency = "many"\n', "[delivery] max_concurrency"),
        ("[delivery]\nmax_concurrency = 0\n", "[delivery] max_concurrency"),
        ("[delivery]\ntimeout_s = -1\n", "[delivery] timeout_s"),
        ("[state]\npath = 3\n", "[state] path"),
        ('[report]\nresults = "xlsx"\n', "[report] results"),
        ("[report]\ntolerate = 2\n", "[report] tolerate"),
        ('[export.columns]\nClient = ""\n', "[export.columns] Client"),
    ],
)
def test_wrong_value_names_file_section_and_key(file: Path, text: str, key: str) -> None:
    """A value of the wrong type or out of range is an error that says where it stands."""
    assert f"{file}: {key}: " in wrong(file, text)


def test_missing_required_key_says_what_it_is_for(file: Path) -> None:
    """Without as_of the error names the key and its choices."""
    file.write_text(LEAST.replace('as_of = "none"', ""))
    with pytest.raises(
        ConfigError, match=re.escape("[export] as_of: missing; how the export's age is known")
    ) as caught:
        config.load(file)
    assert "'none'" in str(caught.value)


def test_every_wrong_key_is_named_at_once(file: Path) -> None:
    """Two mistakes are two lines of one error."""
    said = wrong(file, '[run]\ntimezone = "Nowhere"\n[delivery]\nattempts = 0\n')
    assert len(said.splitlines()) == 2
    assert "timezone" in said
    assert "attempts" in said


def test_wrong_zone_names_the_nearest(file: Path) -> None:
    """A misspelled time zone is an error that says which one was meant."""
    assert "'Europe/Moskow' is no time zone; did you mean 'Europe/Moscow'?" in wrong(
        file, '[run]\ntimezone = "Europe/Moskow"\n'
    )


def test_environment_goes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable overrides its key, and leaves the others of the section as the file has them."""
    file.write_text(LEAST + "[delivery]\nattempts = 2\nmax_concurrency = 3\n")
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATTEMPTS", "7")
    found = config.load(file).delivery
    assert (found.attempts, found.max_concurrency) == (7, 3)


def test_environment_reaches_nested_sections_and_lists(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns keep their case, and a list is read from numbers with commas or blanks between."""
    monkeypatch.setenv("CONSENT_SYNC__EXPORT__COLUMNS__ALLOWSMS", "SmsConsent")
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__RETRY_CODES", "8, 9 10")
    found = config.load(file)
    assert found.export.columns.AllowSms == "SmsConsent"
    assert found.endpoint.retry_codes == (8, 9, 10)


def test_flags_go_before_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line says overrides variable and file."""
    file.write_text(LEAST.replace('as_of = "none"', 'as_of = "none"\npath = "file.csv"'))
    monkeypatch.setenv("CONSENT_SYNC__EXPORT__PATH", "environment.csv")
    assert config.load(file).export.path == "environment.csv"
    assert config.load(file, export={"path": "flag.csv"}).export.path == "flag.csv"


def test_flags_keep_secrets_readable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag does not turn a secret from the environment into asterisks."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__TOKEN", "42")
    token = config.load(file, export={"path": "flag.csv"}).endpoint.token
    assert token is not None
    assert token.get_secret_value() == "42"


def test_unknown_variable_names_the_nearest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled variable is an error, because whoever set it relies on it."""
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATEMPTS", "7")
    assert "CONSENT_SYNC__DELIVERY__ATEMPTS: unknown key 'atempts'; did you mean 'attempts'?" in wrong(file)


def test_variable_of_a_section_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable names a key; a whole section cannot be given in one."""
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY", "{}")
    assert "'delivery' is a section, not a key" in wrong(file)


def test_wrong_value_of_a_variable_names_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error points to the environment, not to a line that the file does not have."""
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATTEMPTS", "often")
    assert wrong(file).startswith("environment variable CONSENT_SYNC__DELIVERY__ATTEMPTS: ")


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("token = 42\n", "CONSENT_SYNC__ENDPOINT__TOKEN"),
        ('[endpoint.auth]\nbearer = "hush"\n', "CONSENT_SYNC__ENDPOINT__AUTH__BEARER"),
    ],
)
def test_secrets_are_refused_in_the_file(file: Path, text: str, variable: str) -> None:
    """A secret in TOML is an error that names the variable, and does not repeat the secret."""
    said = wrong(file, text)
    assert f"set {variable}, or {variable}_FILE" in said
    assert "hush" not in said


def test_secret_comes_from_a_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`…_FILE` names a file that holds the secret; the line's end is not part of it."""
    secret = tmp_path / "bearer"
    secret.write_text("hush\n")
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE", str(secret))
    settings = config.load(file)
    assert settings.endpoint.auth.bearer is not None
    assert settings.endpoint.auth.bearer.get_secret_value() == "hush"
    assert "hush" not in repr(settings)


def test_secret_file_that_is_not_there_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and the path."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE", str(tmp_path / "none"))
    assert f"CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE names {tmp_path / 'none'}" in wrong(file)


def test_only_secrets_have_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`…_FILE` of another key is unknown."""
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATTEMPTS_FILE", "x")
    assert "unknown key 'attempts_file'" in wrong(file)


def test_bearer_without_a_token_is_refused(file: Path) -> None:
    """The error names where the token is to come from."""
    said = wrong(file, '[endpoint.auth]\nkind = "bearer"\n')
    assert "needs CONSENT_SYNC__ENDPOINT__AUTH__BEARER, or CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE" in said


def test_token_that_is_no_integer_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform's Token is an integer; the error does not show what was given."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__TOKEN", "hush")
    said = wrong(file)
    assert "CONSENT_SYNC__ENDPOINT__TOKEN is not an integer" in said
    assert "hush" not in said


def test_relative_paths_are_relative_to_the_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not matter where cron starts the command; defaults and `..` included."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.write_text(
        LEAST.replace('as_of = "none"', 'as_of = "none"\npath = "in/*.csv"') + '[state]\npath = "../state"\n'
    )
    found = config.load(Path("../nightly.toml"))
    assert found.export.path == str(tmp_path / "in" / "*.csv")
    assert found.state.path == tmp_path.parent / "state"
    assert found.state.keys == tmp_path / "keys"
    assert found.report.path == tmp_path / "reports"


def test_no_export_path_stays_none(file: Path) -> None:
    """An export that is named on the command line only does not become the file's folder."""
    assert config.load(file).export.path == ""


def test_settings_are_frozen(file: Path) -> None:
    """Neither a section nor a key can be changed once it was read."""
    settings = config.load(file)
    with pytest.raises(ValidationError, match="frozen"):
        settings.delivery.attempts = 9  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.delivery = settings.delivery.model_copy()  # type: ignore[misc]


@pytest.mark.parametrize("keys", ["state/keys", "state", "state/a/b"])
def test_keys_inside_the_state_are_refused(file: Path, keys: str) -> None:
    """Whoever copies the state must not have the keys with it."""
    assert "lies inside [state] path" in wrong(file, f'[state]\npath = "state"\nkeys = "{keys}"\n')


def test_keys_beside_the_state_are_fine(file: Path) -> None:
    """A name that only begins like the state's is no part of it."""
    file.write_text(LEAST + '[state]\npath = "state"\nkeys = "state-keys"\n')
    assert config.load(file).state.keys == file.parent / "state-keys"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://Loyalty.Example.com:443/Partner/", "https://loyalty.example.com/Partner"),
        ("http://loyalty.example.com:80", "http://loyalty.example.com"),
        ("http://127.0.0.1:8089/", "http://127.0.0.1:8089"),
        ("https://[2001:DB8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
    ],
)
def test_base_url_is_normalised(file: Path, url: str, normal: str) -> None:
    """State is bound to the platform, not to a spelling of its address."""
    settings = with_url(file, url)
    assert settings.endpoint.base_url == normal
    assert settings.endpoint.target == f"{normal} operator 0"


@pytest.mark.parametrize(
    "url",
    [
        "loyalty.example.com",
        "ftp://loyalty.example.com",
        "https://",
        "https://user:word@loyalty.example.com",
        "https://loyalty.example.com/?a=1",
        "https://loyalty.example.com/#a",
        "https://loyalty.example.com:port",
    ],
)
def test_base_url_that_is_no_plain_address_is_refused(file: Path, url: str) -> None:
    """The error names the key."""
    with pytest.raises(ConfigError, match=re.escape("[endpoint] base_url: ")):
        with_url(file, url)


def test_missing_file_says_where_to_start(tmp_path: Path) -> None:
    """The error names the path and a configuration to begin with."""
    with pytest.raises(ConfigError, match=r"none\.toml: no such configuration\. Start from configs/nightly\.toml"):
        config.load(tmp_path / "none.toml")


def test_folder_is_no_configuration(tmp_path: Path) -> None:
    """What cannot be read as a file is a configuration error, not a bug."""
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)


@pytest.mark.parametrize("content", [b"[export\n", b"base_url = https", b"\xff\xfe"])
def test_what_is_not_toml_is_named(file: Path, content: bytes) -> None:
    """A file that does not parse is an error that names it."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        config.load(file)


def test_byte_order_mark_is_ignored(file: Path) -> None:
    """Editors on Windows put one at the beginning."""
    file.write_bytes(b"\xef\xbb\xbf" + LEAST.encode())
    assert config.load(file).endpoint.base_url == "https://loyalty.example.com/partner"


def test_section_that_is_a_value_is_named(file: Path) -> None:
    """A key where a section belongs is an error, not a bug."""
    file.write_text("state = 1\n" + LEAST)
    with pytest.raises(ConfigError, match=re.escape("[state]")):
        config.load(file)
