"""Settings that do not go together, and addresses that would be open to everybody."""

from typing import Any

import pytest

from meshd.config import Settings, SettingsError, is_loopback, split_address


@pytest.mark.parametrize("address", ["0.0.0.0:7600", "[::]:7600", "10.1.2.3:7600", "mesh.example.org:7600"])
@pytest.mark.parametrize("name", ["listen", "http_listen"])
def test_only_loopback_is_served_without_tls(name: str, address: str) -> None:
    given: dict[str, Any] = {name: address}
    with pytest.raises(SettingsError, match=f"{name} .* without TLS") as caught:
        Settings(**given)
    assert "--insecure" in caught.value.next_step
    assert Settings(**given, insecure=True).insecure
    assert Settings(**given, tls_cert="c.pem", tls_key="k.pem").tls_cert == "c.pem"


@pytest.mark.parametrize("address", ["127.0.0.1:7600", "[::1]:7600", "localhost:0", "127.9.9.9:1", ""])
def test_loopback_needs_nothing(address: str) -> None:
    assert Settings(listen=address, http_listen=address).listen == address


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_cert": "c.pem"}, "set tls_key too"),
        ({"tls_key": "k.pem"}, "set tls_cert too"),
        ({"listen": "", "socket": ""}, "nobody could reach"),
        ({"lease_ttl_ms": 1_500}, "less than twice beat_interval_ms"),
        ({"socket_mode": "0666"}, "shuts others out"),
        ({"socket_mode": "rw"}, "shuts others out"),
        ({"listen": "7600"}, "not an address"),
        ({"listen": "127.0.0.1:99999"}, "not an address"),
        ({"listen": "::1:7600"}, "IPv6 needs brackets"),
        ({"issuer": "two words"}, "issuer"),
        ({"data_dir": ""}, "data_dir is empty"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**given)
    assert said in str(caught.value)


def test_addresses_are_split() -> None:
    assert split_address("[::1]:7600") == ("::1", 7600)
    assert split_address("localhost:0") == ("localhost", 0)
    assert not is_loopback("localhost.example.org")


def test_default_places_follow_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/runtime")
    assert Settings().data_dir == "/state/meshd"
    assert Settings().socket == "/runtime/agentmesh/meshd.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert Settings().socket == "/run/meshd/meshd.sock"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert Settings().data_dir == "/var/lib/meshd"
