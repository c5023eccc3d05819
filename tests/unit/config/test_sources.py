"""Which source of a setting counts, and what every mistake is told."""

from pathlib import Path

import pytest

from meshd.config import Settings, SettingsError, load, sources


@pytest.fixture(autouse=True)
def _no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "SYSTEM_FILE", tmp_path / "system.toml")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_nothing_needs_to_be_set() -> None:
    settings = load([], {}).settings
    assert settings == Settings()
    assert settings.listen == "127.0.0.1:7600"
    assert settings.http_listen == "127.0.0.1:7601"


def test_flag_goes_before_environment_before_file_before_default(tmp_path: Path) -> None:
    file = write(tmp_path / "m.toml", 'lease_ttl_ms = 4000\nlog_level = "debug"\nissuer = "from-file"\n')
    environment = {"MESHD_LEASE_TTL_MS": "5000", "MESHD_LOG_LEVEL": "warning"}
    settings = load(["--config", file, "--lease-ttl-ms", "6000"], environment).settings
    assert (settings.lease_ttl_ms, settings.log_level, settings.issuer) == (6000, "warning", "from-file")
    assert settings.beat_interval_ms == 1_000


def test_the_file_is_found_by_flag_then_environment_then_place(tmp_path: Path) -> None:
    write(tmp_path / "system.toml", 'issuer = "system"')
    by_environment = write(tmp_path / "e.toml", 'issuer = "environment"')
    by_flag = write(tmp_path / "f.toml", 'issuer = "flag"')
    assert load([], {}).settings.issuer == "system"
    assert load([], {"MESHD_CONFIG": by_environment}).settings.issuer == "environment"
    assert load(["--config", by_flag], {"MESHD_CONFIG": by_environment}).settings.issuer == "flag"


@pytest.mark.parametrize(
    ("text", "what", "next_step"),
    [
        ("lease_tll_ms = 1", 'unknown setting "lease_tll_ms"', "lease_ttl_ms"),
        ('lease_ttl_ms = "4000"', "lease_ttl_ms", "must be a whole number, not str"),
        ("lease_ttl_ms = true", "lease_ttl_ms", "must be a whole number, not bool"),
        ("lease_ttl_ms = 1999", "lease_ttl_ms", "outside 2000 to 600000 set it to 2000 to 600000"),
        ("insecure = 1", "insecure", "must be true or false, not int set it to true or false"),
        ('log_format = "xml"', "log_format", "json, text"),
        ("[session]\nlease_ttl_ms = 4000", 'unknown setting "session"', ""),
        ("lease_ttl_ms =", "is not TOML", ""),
    ],
)
def test_a_mistake_in_the_file_names_key_file_and_remedy(
    tmp_path: Path, text: str, what: str, next_step: str
) -> None:
    file = write(tmp_path / "m.toml", text)
    with pytest.raises(SettingsError) as caught:
        load(["--config", file], {})
    assert what in caught.value.what
    assert file in caught.value.what
    assert next_step in f"{caught.value.what} {caught.value.next_step}"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read: No such file"):
        load(["--config", str(tmp_path / "absent.toml")], {})


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MESHD_LISTN", "x", 'did you mean "MESHD_LISTEN"'),
        ("MESHD_KEEPALIVE_MS", "1s", "not a whole number"),
        ("MESHD_INSECURE", "maybe", "neither true nor false"),
    ],
)
def test_a_mistake_in_the_environment_is_named(variable: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load([], {variable: value})
    assert said in str(caught.value)
    assert variable in str(caught.value)


@pytest.mark.parametrize(
    "service", ["MESHD", "MESHD_METRICS", "MESHD_SERVICE", "MESHD_PORT", "MESHD_DATA_DIR"]
)
def test_what_kubernetes_adds_for_a_service_named_meshd_or_meshd_anything_is_no_setting(service: str) -> None:
    links = {
        f"{service}_SERVICE_HOST": "10.0.0.1",
        f"{service}_SERVICE_PORT": "7600",
        f"{service}_SERVICE_PORT_GRPC": "7600",
        f"{service}_PORT": "tcp://10.0.0.1:7600",
        f"{service}_PORT_7600_TCP": "tcp://10.0.0.1:7600",
        f"{service}_PORT_7600_TCP_ADDR": "10.0.0.1",
    }
    assert load([], links).settings == Settings()


@pytest.mark.parametrize("variable", ["MESHD_PORT", "MESHD_LISTEN_PORT"])
def test_what_looks_like_a_link_but_is_of_no_service_is_refused(variable: str) -> None:
    with pytest.raises(SettingsError, match=f'unknown setting "{variable}" in the environment'):
        load([], {variable: "7600", "MESHD_METRICS_SERVICE_HOST": "10.0.0.1"})


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        load(["--lease-ttl", "1"], {})
    assert caught.value.what == 'unknown setting "--lease-ttl" on the command line'
    assert caught.value.next_step == 'did you mean "--lease-ttl-ms"?'


def test_a_flag_without_its_value_is_refused() -> None:
    with pytest.raises(SettingsError, match="--listen: expected one argument"):
        load(["--listen"], {})


@pytest.mark.parametrize(
    ("arguments", "next_step"),
    [(["backup"], "meshd backup --help"), (["--listen"], "meshd --help lists them all")],
)
def test_what_is_missing_points_at_the_help_of_its_command(arguments: list[str], next_step: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(arguments, {})
    assert caught.value.next_step == next_step
