"""Wrong things in a request: names, ids, sizes, enums, pages, payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message

from agentmesh.errors import from_rpc_error
from agentmesh.v1 import (
    agent_pb2,
    payload_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
    task_pb2,
)
from tests.e2e.wrong_things import page
from tests.e2e.wrong_things.house import House

ListTasks = scheduler_service_pb2.ListTasksRequest


def call(method: Callable[..., Any], name: str, request: Message) -> str:
    """A call that must be refused, as its caller sees it."""
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=10)
    error = from_rpc_error(caught.value)
    assert error.reason
    text = text_format.MessageToString(request, as_one_line=True)
    shown = text if len(text) <= 100 else f"{text[:60]}…"
    return f"{name} {{{shown}}}\n{error.code} {error.reason}: {error}"


def test_a_namespace_that_does_not_exist(house: House) -> None:
    seen = house.meshctl("task", "list", "--namespace", "nowhere").must_be_clear()
    page.check("A namespace that does not exist", str(seen))


@pytest.mark.parametrize(
    ("title", "arguments"),
    [
        ("An agent id with a capital letter", ("agent", "get", "Worker_1", "-n", "default")),
        ("A task id with a blank", ("task", "get", "no blanks", "-n", "default")),
        ("A namespace's name with an underscore", ("namespace", "create", "my_team")),
    ],
)
def test_malformed_ids(house: House, title: str, arguments: tuple[str, ...]) -> None:
    page.check(title, str(house.meshctl(*arguments).must_be_clear()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("auth", "--operator", "--subject", "a b"), "--subject is 'a b': use 1 to 63 of a-z"),
        (("auth", "--operator", "--subject", "a", "--ttl", "48h"), "--ttl is 48h; allowed are 1s to 24h"),
        (("execute", "--task-type", "bad type"), "--task-type is 'bad type': use 1 to 63 of a-z"),
        (("execute", "--task-type", ""), "--task-type is empty"),
        (("execute", "--task-type", "t", "--require", "x y"), "--require is 'x y': use 1 to 63 of a-z"),
        (("execute", "--task-type", "t", "--timeout", "400d"), "--timeout is 400d; allowed are 1ms to 366d"),
        (
            ("drain", "w", "--hand-over", "--grace", "20m", "-n", "default"),
            "--grace is 20m; allowed are 0ms to 10m",
        ),
        (("drain", "Worker_1"), "PATTERN is 'Worker_1': use 1 to 63 of a-z"),
        (("task", "cancel", "kept", "-n", "Default"), "--namespace is 'Default': use 1 to 63 of a-z"),
        (
            ("token", "join-token", "--agent-id", "a", "--agent-type", "worker", "--ttl", "1ms"),
            "--ttl is 1ms;",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_field_is_called_as_it_was_typed(house: House, arguments: tuple[str, ...], words: str) -> None:
    seen = house.meshctl(*arguments).must_be_clear()
    assert (seen.code, seen.err.startswith(f"error: {words}")) == (2, True), seen


def test_a_payload_that_is_too_large(house: House) -> None:
    (house.folder / "large.bin").write_bytes(b"x" * 300_000)
    seen = house.meshctl("execute", "--task-type", "t", "--payload", f"@{house.folder}/large.bin")
    page.check("A payload that is too large", str(seen.must_be_clear()))


def test_a_payload_that_is_too_large_in_a_call(house: House) -> None:
    spec = task_pb2.TaskSpec(task_type="t", payload=payload_pb2.Payload(inline=b"x" * 300_000))
    request = scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec)
    seen = call(house.stubs.scheduler.SubmitTask, "SubmitTask", request)
    page.check("A payload that is too large, sent by a program", seen)


def test_a_message_that_is_too_large(house: House) -> None:
    spec = task_pb2.TaskSpec(task_type="t", payload=payload_pb2.Payload(inline=b"x" * 2_000_000))
    request = scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec)
    with pytest.raises(grpc.RpcError) as caught:
        house.stubs.scheduler.SubmitTask(request, timeout=10)
    error = from_rpc_error(caught.value)
    seen = f"SubmitTask {{{str(text_format.MessageToString(request, as_one_line=True))[:60]}…}}\n{error.code}: {error}"
    page.check("A message that is too large", seen)


def test_an_enum_value_nobody_knows(house: House) -> None:
    # A newer client than the daemon, or a number that was typed.
    agents = registry_service_pb2.ListAgentsRequest(namespace="default", type=99)  # type: ignore[arg-type]
    seen = call(house.stubs.registry.ListAgents, "ListAgents", agents)
    tasks = ListTasks(namespace="default", states=[99])  # type: ignore[list-item]
    seen += "\n\n" + call(house.stubs.scheduler.ListTasks, "ListTasks", tasks)
    spec = task_pb2.TaskSpec(task_type="t", strategy=99)  # type: ignore[arg-type]
    submit = scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec)
    seen += "\n\n" + call(house.stubs.scheduler.SubmitTask, "SubmitTask", submit)
    declared = agent_pb2.AgentSpec(agent_id="a", type=99)  # type: ignore[arg-type]
    declare = registry_service_pb2.DeclareAgentRequest(namespace="default", spec=declared)
    seen += "\n\n" + call(house.stubs.registry.DeclareAgent, "DeclareAgent", declare)
    page.check("An enum value that meshd does not know", seen)


def test_a_negative_page_size(house: House) -> None:
    request = ListTasks(namespace="default", page_size=-1)
    page.check("A negative page size", call(house.stubs.scheduler.ListTasks, "ListTasks", request))


def test_a_page_token_of_another_list(house: House) -> None:
    for number in range(2):
        house.submit(f"page-{number}", "nobody-takes-this")
    first = house.stubs.scheduler.ListTasks(ListTasks(namespace="default", page_size=1), timeout=10)
    other = ListTasks(namespace="default", task_type="other", page_token=first.next_page_token)
    seen = call(house.stubs.scheduler.ListTasks, "ListTasks", other).replace(first.next_page_token, "q7Zk…")
    assert "q7Zk" in seen
    page.check("A stale page token", seen)
    altered = ListTasks(namespace="default", page_token="A" + first.next_page_token[1:-1])
    assert "INVALID_PAGE_TOKEN" in call(house.stubs.scheduler.ListTasks, "ListTasks", altered)


def test_a_file_that_says_it_is_json_and_is_not(house: House) -> None:
    (house.folder / "input.json").write_text('{"data": example}')
    seen = house.meshctl("execute", "--task-type", "t", "--payload", f"@{house.folder}/input.json")
    page.check("A payload that is not JSON", str(seen.must_be_clear()))


def test_json_whose_quotes_the_shell_took(house: House) -> None:
    seen = house.meshctl(
        "execute",
        "--task-type",
        "nobody-takes-this",
        "--task-id",
        "t-1",
        "--no-wait",
        "--payload",
        "{data: 1}",
    )
    assert seen.code == 0  # text is a payload like any other: the person is told, the task is taken
    page.check("A payload whose quotes the shell took", str(seen))


def test_a_file_that_cannot_be_read(house: House) -> None:
    missing = house.meshctl("execute", "--task-type", "t", "--payload", f"@{house.folder}/missing.json")
    folder = house.meshctl("execute", "--task-type", "t", "--payload", f"@{house.folder}")
    seen = f"{missing.must_be_clear()}\n\n{folder.must_be_clear()}"
    page.check("A payload file that cannot be read", seen)
