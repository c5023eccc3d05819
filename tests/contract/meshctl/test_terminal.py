"""What agents wrote must not steer the terminal it is shown on; a pipe gets it as it is."""

from __future__ import annotations

import sys

import pytest

from agentmesh.v1 import payload_pb2, task_pb2
from tests.contract.meshctl.conftest import Meshctl
from tests.contract.meshctl.fake_meshd import FakeMeshd, echo_payload

HOSTILE = "a\x1b]0;title\x07\tb\r\nc\x9b31m"
GET = ("task", "get", "t1", "-n", "default", "--result")


def ended(meshd: FakeMeshd, payload: payload_pb2.Payload) -> None:
    meshd.tasks["default", "t1"] = task_pb2.Task(
        namespace="default",
        spec=task_pb2.TaskSpec(task_id="t1", task_type="t"),
        state=task_pb2.TASK_STATE_SUCCEEDED,
        output=payload,
    )


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is a terminal."""
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: stream is sys.stdout)


def test_a_result_of_text(meshd: FakeMeshd, meshctl: Meshctl, terminal: None) -> None:
    ended(meshd, echo_payload(HOSTILE, "text/plain"))
    for command in (GET, ("task", "watch", "t1", "-n", "default")):
        assert meshctl(*command).out == "a\ufffd]0;title\ufffd\tb\nc\ufffd31m\n"


def test_a_result_of_json_is_the_same_document(meshd: FakeMeshd, meshctl: Meshctl, terminal: None) -> None:
    ended(meshd, echo_payload('{"a": "\x9b31m\\u001b\u202eü\U000e0001"}', "application/json"))
    outcome = meshctl(*GET)
    assert outcome.json == {"a": "\x9b31m\x1b\u202eü\U000e0001"}
    assert all(character.isprintable() or character == "\n" for character in outcome.out)
    assert "ü" in outcome.out


def test_a_result_that_is_no_text_is_not_shown(meshd: FakeMeshd, meshctl: Meshctl, terminal: None) -> None:
    for content in (b"\x89PNG\r\n\x1a\n0123", b"abc\0def\0\x1b[2J"):
        ended(meshd, payload_pb2.Payload(inline=content, media_type="application/octet-stream"))
        outcome = meshctl(*GET)
        assert (outcome.code, outcome.out) == (0, "")
        assert outcome.err == (
            "12 bytes of application/octet-stream; not shown on a terminal, redirect them: "
            "meshctl task get t1 -n default --result > FILE\n"
        )


def test_documents(meshd: FakeMeshd, meshctl: Meshctl, terminal: None) -> None:
    meshd.add_agent("default", "a1", labels={"zone": "x\x9b31m"})
    outcome = meshctl("agent", "get", "a1", "-o", "json")
    assert outcome.json["spec"]["labels"] == {"zone": "x\x9b31m"}
    assert "\x9b" not in outcome.out


def test_notes(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl("deploy", "--agent-id", "a1", "--agent-type", "worker", "--host", "h\x9b2J\x07")
    assert outcome.code == 0
    assert "h\ufffd2J\ufffd" in outcome.err


def test_a_pipe_gets_it_byte_for_byte(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    ended(meshd, echo_payload(HOSTILE, "text/plain"))
    assert meshctl(*GET).out == HOSTILE
