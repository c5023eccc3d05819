"""The digest by which a repeated submit is known: of all that makes a task another one, and of nothing else."""

from __future__ import annotations

from typing import Any

from agentmesh.v1 import payload_pb2, requirements_pb2, task_pb2
from meshd.wire.codec.tasks import spec_from


def spec(**fields: Any) -> task_pb2.TaskSpec:
    payload = payload_pb2.Payload(inline=b"in", media_type="text/plain")
    return task_pb2.TaskSpec(**{"task_id": "t1", "task_type": "work", "payload": payload, **fields})


def digest(**fields: Any) -> bytes:
    return spec_from(spec(**fields), "").digest


def odd_time() -> Any:
    message = task_pb2.TaskSpec()
    message.timeout.seconds = 77
    return message.timeout


def requirements(**fields: Any) -> requirements_pb2.Requirements:
    return requirements_pb2.Requirements(**fields)


GPU = [requirements_pb2.LabelCondition(label="gpu", operator=requirements_pb2.LABEL_OPERATOR_EXISTS)]
NO_GPU = [requirements_pb2.LabelCondition(label="gpu", operator=requirements_pb2.LABEL_OPERATOR_NOT_EXISTS)]

ANOTHER_TASK: dict[str, list[Any]] = {
    "task_type": ["other"],
    "payload": [
        payload_pb2.Payload(media_type="text/plain"),
        payload_pb2.Payload(inline=b"other", media_type="text/plain"),
        payload_pb2.Payload(inline=b"in", media_type="text/html"),
    ],
    "requirements": [
        requirements(),
        requirements(required_capabilities=["other"]),
        requirements(preferred_capabilities=["other"]),
        requirements(required_labels=GPU),
        requirements(required_labels=NO_GPU),
        requirements(preferred_labels=GPU),
    ],
    "priority": [0, 9],
    "strategy": [task_pb2.PLACEMENT_STRATEGY_ROUND_ROBIN],
    "queue_timeout": [odd_time()],
    "execution_timeout": [odd_time()],
    "retry_policy": [
        task_pb2.RetryPolicy(max_retries=0),
        task_pb2.RetryPolicy(initial_backoff=odd_time()),
        task_pb2.RetryPolicy(multiplier=3.0),
        task_pb2.RetryPolicy(max_backoff=odd_time()),
    ],
    "max_losses": [1],
    "labels": [{"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": "1"}],
    "context_id": ["one"],
    "parent_task_id": ["one"],
}

THE_SAME_TASK: dict[str, list[Any]] = {
    "task_id": ["t2"],
    "payload": [payload_pb2.Payload(inline=b"in", media_type="text/plain", metadata={"a": "1"})],
    "timeout": [odd_time()],
    "traceparent": ["00-" + "a" * 32 + "-" + "b" * 16 + "-01"],
    # As they are when left out.
    "priority": [5],
    "strategy": [task_pb2.PLACEMENT_STRATEGY_LEAST_LOADED],
    "on_lost": [task_pb2.ON_LOST_REASSIGN],
    "retry_policy": [task_pb2.RetryPolicy()],
}


def test_every_field_is_either_a_part_of_it_or_not() -> None:
    assert ANOTHER_TASK.keys() | THE_SAME_TASK.keys() == {*task_pb2.TaskSpec.DESCRIPTOR.fields_by_name}


def test_whatever_makes_it_another_task_makes_another_digest() -> None:
    digests = [digest(**{name: value}) for name, values in ANOTHER_TASK.items() for value in values]
    assert len({digest(), *digests}) == 1 + len(digests)


def test_what_may_differ_between_repetitions_is_no_part_of_it() -> None:
    for name, values in THE_SAME_TASK.items():
        for value in values:
            assert digest(**{name: value}) == digest(), name


def test_it_stays_what_it_is() -> None:
    """Rows hold it for a week and longer: with another one, a repetition of what was taken before reads TASK_EXISTS."""
    names = [*"dhcbgafe"]
    found = digest(
        requirements=requirements(required_capabilities=names, preferred_capabilities=names),
        labels=dict.fromkeys(names, "1"),
        priority=9,
    )
    assert (digest().hex(), found.hex()) == (
        "6b9e2e114e553388da185aafcf717fad",
        "32079f5b9a1cdb099b2700a1fe3c070f",
    )
