"""Whatever goes wrong: two lines on standard error, nothing on standard output, and the documented exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.contract.meshctl.conftest import Meshctl
from tests.contract.meshctl.fake_meshd import FakeMeshd

EXECUTE = ("execute", "--task-id", "task-001", "--task-type", "data-processing")


@pytest.mark.parametrize(
    ("status", "reason", "code", "next_step"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", 2, "meshctl execute --help"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE", 2, "send less"),
        (grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND", 3, "meshctl namespace list"),
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", 4, "meshctl auth"),
        (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED", 4, "meshctl token introspect"),
        (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", 5, "run the command again"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_LOW", 5, "free disk space"),
        (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND", 5, "meshctl version"),
        (grpc.StatusCode.INTERNAL, "INTERNAL", 70, "meshd's log"),
    ],
)
def test_each_refusal_has_its_exit_code_and_next_step(
    meshd: FakeMeshd, meshctl: Meshctl, status: grpc.StatusCode, reason: str, code: int, next_step: str
) -> None:
    meshd.refusals["SubmitTask"] = (status, reason, "what meshd \x1bsaid")
    outcome = meshctl(*EXECUTE)
    assert (outcome.code, outcome.out) == (code, "")
    first, second = outcome.err.splitlines()
    assert first == "error: what meshd \N{REPLACEMENT CHARACTER}said"
    assert second.startswith("next:  ")
    assert next_step in second


def test_no_meshd_at_all(meshctl: Meshctl) -> None:
    outcome = meshctl("status", "--address", "127.0.0.1:1")
    assert outcome.code == 5
    assert outcome.err.splitlines()[0] == "error: no meshd answers at 127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "--address", "nonsense"), "'nonsense' is not an address"),
        (("status", "--address", "mesh.example:7600"), "is on another host and no CA is given"),
        (("status", "--ca", "/no/such.pem"), "the CA file /no/such.pem does not exist"),
        ((*EXECUTE, "--payload", "@/no/such/file"), "cannot read '/no/such/file': No such file or directory"),
        ((*EXECUTE, "--payload", "x" * 300_000), "the payload is larger than 262,144 bytes"),
        ((*EXECUTE, "--timeout", "soon"), "'soon' is not a duration"),
        ((*EXECUTE, "--priority", "urgent"), "'urgent' is not a priority"),
        ((*EXECUTE, "--label", "team"), "'team' is not a label"),
        (("execute", "--task-typ", "x"), "No such option '--task-typ'"),
        (("excute",), "Did you mean 'execute'?"),
        (("status", "--health", "fine"), "'fine' is not one of"),
        (("help", "nothing"), "No help for 'nothing'"),
    ],
)
def test_what_was_typed_wrong_is_told_without_a_call(
    meshd: FakeMeshd, meshctl: Meshctl, arguments: tuple[str, ...], words: str
) -> None:
    outcome = meshctl(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 2
    assert words in outcome.err
    assert not meshd.requests


def test_connection_options_may_stand_before_the_command(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    assert meshctl("--address", "127.0.0.1:1", "namespace", "list").code == 5
    assert meshctl("--address", "127.0.0.1:1", "namespace", "list", "--address", meshd.address).code == 0


def test_a_wrong_token_is_not_shown(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("status", "--token", "s3cret")
    assert outcome.code == 4
    assert "s3cret" not in outcome.err + outcome.out


def test_a_socket_without_permission(
    meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A file that nothing listens on, and no rights to it: root would have them, so the check is replaced.
    (tmp_path / "meshd.sock").touch()
    monkeypatch.setattr("meshctl.refusals.os.access", lambda path, mode: False)
    outcome = meshctl("status", "--address", f"unix:{tmp_path}/meshd.sock")
    assert outcome.code == 4
    assert "you may not use the operator socket" in outcome.err


def test_a_reader_that_goes_away_ends_it_quietly(meshd: FakeMeshd) -> None:
    for number in range(300):
        meshd.namespaces.append(f"namespace-{number}")
    command = [sys.executable, "-m", "meshctl", "--address", meshd.address, "namespace", "list"]
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


def test_output_that_cannot_be_written(meshd: FakeMeshd) -> None:
    command = [sys.executable, "-m", "meshctl", "--address", meshd.address, "namespace", "list"]
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert process.returncode == 74
    assert process.stderr.splitlines() == [
        "error: the output cannot be written: No space left on device",
        "next:  free space there, or write it elsewhere",
    ]


def test_unbuffered_output_that_is_taken_in_part_is_not_taken_for_done(
    meshd: FakeMeshd, tmp_path: Path
) -> None:
    script = 'ulimit -f 1; exec "$0" -u -m meshctl --address "$1" namespace list -o json'
    for number in range(300):
        meshd.namespaces.append(f"namespace-{number}")
    with (tmp_path / "out").open("w") as short:
        command = ["sh", "-c", script, sys.executable, meshd.address]
        process = subprocess.run(command, stdout=short, stderr=subprocess.PIPE, text=True, check=False)
    assert (process.returncode, process.stderr.splitlines()[0]) == (
        74,
        "error: the output cannot be written: File too large",
    )


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [
        ("namespace list", ">&-", 0),
        ("namespace list", "<&- >&- 2>&-", 0),
        ("bogus", "2>&-", 2),
        ("token introspect -", "<&-", 2),
    ],
)
def test_streams_that_were_closed(meshd: FakeMeshd, arguments: str, closed: str, code: int) -> None:
    script = f'exec "$0" -m meshctl --address "$1" {arguments} {closed}'
    command = ["sh", "-c", script, sys.executable, meshd.address]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (process.returncode, "Traceback" in process.stderr) == (code, False), process.stderr


def test_an_encoding_that_lacks_a_character(meshd: FakeMeshd) -> None:
    meshd.namespaces.append("漢")
    command = [sys.executable, "-m", "meshctl", "--address", meshd.address, "namespace", "list", "-o", "json"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    process = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert [each["name"] for each in json.loads(process.stdout)["namespaces"]][-1] == "漢"
