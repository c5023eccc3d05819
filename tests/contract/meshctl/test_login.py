"""Logging in, profiles, and which of several addresses and tokens is used."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.v1 import auth_service_pb2
from tests.contract.meshctl.conftest import Meshctl
from tests.contract.meshctl.fake_meshd import FakeMeshd

SECRET = "s3cret.of.alice"


@pytest.fixture
def mesh(meshd: FakeMeshd, monkeypatch: pytest.MonkeyPatch) -> FakeMeshd:
    """A meshd that knows alice, and is not found without being told where it is."""
    for name, hours in (("alice", 8), ("bob", 2)):
        ends = Timestamp()
        ends.FromDatetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours, minutes=1))
        meshd.tokens[f"s3cret.of.{name}"] = auth_service_pb2.IntrospectTokenResponse(
            active=True, subject=f"operator:{name}", expire_time=ends
        )
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    return meshd


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the profiles are kept."""
    return tmp_path / "config" / "agentmesh" / "profiles.toml"


def log_in(meshctl: Meshctl, mesh: FakeMeshd, profile: str = "prod", who: str = "alice") -> None:
    token = f"s3cret.of.{who}\n".encode()
    outcome = meshctl("login", "--profile", profile, "--address", mesh.address, stdin=token)
    assert outcome.code == 0, outcome.err


def test_login_checks_the_token_and_every_call_uses_it(mesh: FakeMeshd, meshctl: Meshctl, file: Path) -> None:
    outcome = meshctl("login", "--profile", "prod", "--address", mesh.address, stdin=f" {SECRET}\n".encode())
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Logged in to {mesh.address} as operator:alice until ")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in file.parent.iterdir()] == ["profiles.toml"]
    assert "Subject: operator:alice" in meshctl("token", "introspect").out
    shown = [
        meshctl("profile", *words, *form) for words in (("list",), ("show",)) for form in ((), ("-o", "json"))
    ]
    for each in shown:
        assert (each.code, each.err) == (0, "")
        assert "operator:alice" in each.out
        assert SECRET not in each.out
    assert "good for 8h" in shown[0].out
    assert shown[3].json["has_token"] is True


def test_a_token_from_a_file(mesh: FakeMeshd, meshctl: Meshctl, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET + "\n")
    assert meshctl("login", "--address", mesh.address, "--token", f"@{tmp_path}/token").code == 0
    assert meshctl("profile", "show").out.splitlines()[0] == "Profile: default, in use"
    assert meshctl("status", "--token", f"@{tmp_path}/token").code == 0


def test_a_person_is_asked_and_nothing_is_echoed(
    mesh: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, *, hide_input: bool, err: bool) -> str:
        asked.append((text, hide_input))
        return SECRET

    monkeypatch.setattr("meshctl.commands.login.click.prompt", prompt)
    monkeypatch.setattr("meshctl.commands.login._is_terminal", lambda: True)
    outcome = meshctl("login", "--address", mesh.address)
    assert (outcome.code, asked) == (0, [("Token", True)])
    assert SECRET not in outcome.out + outcome.err


@pytest.mark.parametrize("token", [b"", b"two words", "schlüssel".encode(), b"x" * 9_000, b"a\nb"])
def test_what_is_no_token_is_told_without_a_call(mesh: FakeMeshd, meshctl: Meshctl, token: bytes) -> None:
    outcome = meshctl("login", "--address", mesh.address, stdin=token)
    assert (outcome.code, outcome.out, mesh.requests) == (2, "", [])
    assert outcome.err.startswith("error: what standard input gives is no token\nnext:  ")


def test_a_refused_token_is_not_stored(mesh: FakeMeshd, meshctl: Meshctl, file: Path) -> None:
    outcome = meshctl("login", "--address", mesh.address, stdin=b"stolen")
    assert (outcome.code, outcome.out) == (4, "")
    assert "meshctl auth --operator" in outcome.err
    assert "stolen" not in outcome.err
    assert not file.exists()
    outcome = meshctl("login", stdin=b"x")
    assert (outcome.code, "no address to log in to" in outcome.err) == (2, True)


def test_the_next_login_needs_the_token_alone(mesh: FakeMeshd, meshctl: Meshctl) -> None:
    log_in(meshctl, mesh)
    assert meshctl("login", stdin=b"s3cret.of.bob").code == 0
    assert meshctl("profile", "show", "prod", "-o", "json").json["subject"] == "operator:bob"


def test_an_expired_token_says_how_to_go_on(mesh: FakeMeshd, meshctl: Meshctl) -> None:
    log_in(meshctl, mesh)
    mesh.refusals["GetMeshStatus"] = (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_EXPIRED",
        "the token has expired",
    )
    outcome = meshctl("status")
    assert outcome.code == 4
    assert outcome.err.splitlines() == [
        "error: the token has expired",
        "next:  log in with a fresh token: meshctl login --profile prod",
    ]
    # The profile is not to blame for a token that came from elsewhere and for another address.
    outcome = meshctl("status", "--address", mesh.address, "--token", SECRET)
    assert "meshctl auth --operator" in outcome.err


def test_logout_forgets_the_token_and_keeps_the_address(
    mesh: FakeMeshd, meshctl: Meshctl, file: Path
) -> None:
    log_in(meshctl, mesh)
    outcome = meshctl("logout")
    assert outcome.out == "Profile prod holds no token any more.\n"
    assert "meshctl token revoke --subject alice" in outcome.err
    assert SECRET not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert mesh.address in meshctl("profile", "list").out
    assert "held no token" in meshctl("logout", "--profile", "prod").out
    assert meshctl("login", stdin=SECRET.encode()).code == 0


@pytest.mark.parametrize(
    "command",
    [("logout",), ("logout", "--profile", "x"), ("profile", "use", "x"), ("profile", "remove", "x")],
)
def test_nothing_is_made_for_a_profile_that_is_not_there(
    meshctl: Meshctl, file: Path, command: tuple[str, ...]
) -> None:
    assert meshctl(*command).code in (2, 3)
    assert not file.parent.exists()


def test_use_and_remove(mesh: FakeMeshd, meshctl: Meshctl) -> None:
    assert "meshctl login" in meshctl("profile", "list").err
    assert meshctl("logout").code == 2
    log_in(meshctl, mesh, "prod")
    log_in(meshctl, mesh, "test", "bob")

    def caller() -> str:
        return str(meshctl("token", "introspect", "-o", "json").json["subject"])

    assert caller() == "operator:bob"
    assert meshctl("profile", "use", "prod").code == 0
    assert caller() == "operator:alice"
    assert meshctl("profile", "remove", "prod").out == "Removed profile prod.\n"
    assert meshctl("profile", "list", "-o", "json").json["active"] == ""
    assert meshctl("status").code == 5, "nothing says where the mesh is"
    for command in ("use", "show", "remove"):
        outcome = meshctl("profile", command, "prod")
        assert (outcome.code, outcome.err.splitlines()[0]) == (3, "error: there is no profile 'prod'")
    assert meshctl("login", "--profile", "../x", "--address", mesh.address, stdin=SECRET.encode()).code == 2


def test_options_then_environment_then_profile(
    mesh: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(meshctl, mesh, "prod")
    log_in(meshctl, mesh, "test", "bob")

    def caller(*options: str) -> str:
        outcome = meshctl("token", "introspect", "-o", "json", *options)
        return str(outcome.json["subject"]) if outcome.code == 0 else outcome.err.splitlines()[0]

    assert caller("--profile", "prod") == "operator:alice"
    assert caller("--profile", "prod", "--token", "s3cret.of.bob") == "operator:bob"
    monkeypatch.setenv("AGENTMESH_PROFILE", "prod")
    assert caller() == "operator:alice"
    assert caller("--profile", "test") == "operator:bob"
    monkeypatch.setenv("AGENTMESH_TOKEN", "s3cret.of.bob")
    assert caller() == "operator:bob"
    assert caller("--profile", "prod") == "operator:alice", "what was typed wins over the environment"
    monkeypatch.setenv("AGENTMESH_ADDRESS", "127.0.0.1:1")
    assert caller() == "error: no meshd answers at 127.0.0.1:1"
    assert caller("--profile", "prod") == "operator:alice"
    assert "both say where the mesh is" in caller("--profile", "prod", "--address", "127.0.0.1:1")
    monkeypatch.setenv("AGENTMESH_PROFILE", "nowhere")
    monkeypatch.delenv("AGENTMESH_ADDRESS")
    assert caller() == "error: there is no profile 'nowhere'"


def test_a_profiles_token_goes_to_no_other_address(
    mesh: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(meshctl, mesh)
    there = f"unix:{mesh.address.removeprefix('unix:')}"
    outcome = meshctl("token", "introspect", "--address", there)
    assert (outcome.code, "no token to explain" in outcome.err) == (2, True)
    monkeypatch.setenv("AGENTMESH_ADDRESS", there)
    assert meshctl("token", "introspect").code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("active = ", "is not TOML"),
        (f'x = 1\ntoken = {SECRET}"\n', "is not TOML (line 2)"),
        ("\xff", "is not UTF-8"),
        ("a = " + "[" * 5_000, "is n"),
        ("colour = 1", "has an unknown key: 'colour'"),
        ('[profiles.prod]\naddress = "h:1"\ntokn = "s3cret"', "profile 'prod': 'tokn'"),
        (
            '[profiles.prod]\naddress = "h:1"\ntoken = 5',
            "has a wrong kind of value for token in profile 'prod'",
        ),
        ('[profiles.prod]\naddress = "h:1"\ninsecure = "yes"', "for insecure"),
        ('[profiles.prod]\naddress = "h:1"\nexpire_time = 2026-01-01', "an expire_time"),
        ("[profiles.prod]", "has no address in profile 'prod'"),
        ("[profiles]\nprod = 1", "that is no table"),
        ('active = "prod"', "names the profile 'prod' as active"),
        ("active = 1", "an `active` that is no text"),
        ("#" * 1_100_000, "is larger than"),
    ],
)
def test_a_file_that_makes_no_sense(
    mesh: FakeMeshd, meshctl: Meshctl, file: Path, content: str, words: str
) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(content.encode("latin-1"))
    file.chmod(0o600)
    for command in (("status",), ("profile", "list"), ("logout",), ("login", "--address", mesh.address)):
        outcome = meshctl(*command, stdin=SECRET.encode())
        first, second = outcome.err.splitlines()
        assert (outcome.code, outcome.out, mesh.requests) == (2, "", []), command
        assert first.startswith(f"error: {file} ")
        assert words in first
        assert second == "next:  mend it, or move it away and log in again: meshctl login"
        assert "s3cret" not in outcome.err
    assert meshctl("status", "--address", mesh.address).code == 0, "what was typed needs no file"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_file_that_others_may_use_is_refused(
    mesh: FakeMeshd, meshctl: Meshctl, file: Path, mode: int
) -> None:
    log_in(meshctl, mesh)
    file.chmod(mode)
    outcome = meshctl("status")
    assert outcome.code == 2
    assert outcome.err.splitlines()[1].startswith(f"next:  chmod 600 {file} ")
    file.chmod(0o600)
    assert meshctl("status").code == 0


def test_a_file_of_another_user_is_refused(
    mesh: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(meshctl, mesh)
    monkeypatch.setattr("meshctl.profiles.os.geteuid", lambda: 4242)
    outcome = meshctl("status")
    assert (outcome.code, "belongs to another user" in outcome.err) == (2, True)


def test_a_directory_that_cannot_be_written(
    mesh: FakeMeshd, meshctl: Meshctl, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.parent.parent.mkdir()
    file.parent.write_text("in the way")
    outcome = meshctl("login", "--address", mesh.address, stdin=SECRET.encode())
    assert outcome.code == 2
    assert "cannot be" in outcome.err
    assert SECRET not in outcome.err
