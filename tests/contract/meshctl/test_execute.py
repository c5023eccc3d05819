"""`meshctl execute`: what it submits, how it waits, and what each ending looks like."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh.v1 import agent_pb2, auth_service_pb2, scheduler_service_pb2, task_pb2
from meshctl import following
from meshctl.mesh import Mesh
from meshctl.problems import ExitCode, Problem
from tests.contract.meshctl import fake_meshd
from tests.contract.meshctl.conftest import Meshctl
from tests.contract.meshctl.fake_meshd import FakeMeshd

EXECUTE = ("execute", "--task-id", "task-001", "--task-type", "data-processing")


def test_submits_waits_and_prints_the_result(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshd.add_agent("production", "worker-1", capabilities=["data-processing"])
    outcome = meshctl(
        *EXECUTE, "--payload", '{"data": "example"}', "--priority", "high", "--timeout", "300000"
    )
    assert (outcome.code, outcome.json) == (0, {"data": "example"})
    assert "task-001 in production is running on worker-1" in outcome.err
    assert "50% half \N{REPLACEMENT CHARACTER}[31mway" in outcome.err
    request = meshd.sent(scheduler_service_pb2.SubmitTaskRequest)
    assert request.namespace == "production"
    assert request.spec.priority == 7
    assert request.spec.timeout.seconds == 300
    assert request.spec.payload.media_type == "application/json"
    assert not request.spec.HasField("requirements")
    assert request.spec.strategy == task_pb2.PLACEMENT_STRATEGY_UNSPECIFIED


def test_every_option_reaches_the_spec(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    outcome = meshctl(
        *EXECUTE,
        *("--priority", "0", "--queue-timeout", "30s", "--execution-timeout", "2m", "--retries", "0"),
        *(
            "--require",
            "gpu",
            "--require",
            "eu",
            "--strategy",
            "round-robin",
            "--label",
            "team=a=b",
            "--no-wait",
        ),
    )
    assert (outcome.code, outcome.out) == (0, "task-001\n")
    assert "meshctl task watch task-001 -n default" in outcome.err
    spec = meshd.sent(scheduler_service_pb2.SubmitTaskRequest).spec
    assert spec.HasField("priority")
    assert (spec.priority, spec.queue_timeout.seconds, spec.execution_timeout.seconds) == (0, 30, 120)
    assert spec.retry_policy.HasField("max_retries")
    assert spec.retry_policy.max_retries == 0
    assert list(spec.requirements.required_capabilities) == ["gpu", "eu"]
    assert spec.strategy == task_pb2.PLACEMENT_STRATEGY_ROUND_ROBIN
    assert spec.labels == {"team": "a=b"}


def test_payloads_from_file_and_standard_input_come_back_byte_for_byte(
    meshd: FakeMeshd, meshctl: Meshctl, tmp_path: Path
) -> None:
    file = tmp_path / "table.csv"
    file.write_text("a;b\n")
    outcome = meshctl("execute", "--task-type", "t", "--payload", f"@{file}")
    assert (outcome.code, outcome.out) == (0, "a;b\n")
    assert meshd.sent(scheduler_service_pb2.SubmitTaskRequest).spec.payload.media_type == "text/csv"
    outcome = meshctl("execute", "--task-type", "t", "--payload", "-", stdin=b"plain")
    assert (outcome.code, outcome.out) == (0, "plain")
    assert meshd.sent(scheduler_service_pb2.SubmitTaskRequest).spec.payload.media_type == "text/plain"


def test_a_rerun_returns_the_stored_outcome_and_says_so(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshctl(*EXECUTE, "--payload", "1")
    outcome = meshctl(*EXECUTE, "--payload", "1")
    assert (outcome.code, outcome.out) == (0, "1\n")
    assert "this is its stored outcome" in outcome.err
    other = meshctl(*EXECUTE, "--payload", "2")
    assert (other.code, other.out) == (2, "")
    assert other.err.splitlines() == [
        "error: task-001 exists in default with other content",
        "next:  choose another --task-id, or look at that one: meshctl task get task-001 -n default",
    ]


@pytest.mark.parametrize(
    ("state", "reason", "code", "words"),
    [
        (
            task_pb2.TASK_STATE_FAILED,
            task_pb2.OUTCOME_REASON_NOT_RETRYABLE,
            1,
            "task-001 failed (not retryable): ValueError: no such column",
        ),
        (
            task_pb2.TASK_STATE_CANCELLED,
            task_pb2.OUTCOME_REASON_CANCEL_REQUESTED,
            1,
            "task-001 cancelled (cancel requested)",
        ),
        (task_pb2.TASK_STATE_EXPIRED, task_pb2.OUTCOME_REASON_TIMEOUT, 6, "task-001 expired (timeout)"),
    ],
)
def test_other_endings(
    meshd: FakeMeshd,
    meshctl: Meshctl,
    state: task_pb2.TaskState.ValueType,
    reason: task_pb2.OutcomeReason.ValueType,
    code: int,
    words: str,
) -> None:
    meshd.course = fake_meshd.ends_as(state, reason)
    outcome = meshctl(*EXECUTE)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.splitlines() == [
        f"error: {words}",
        "next:  see its attempts: meshctl task get task-001 -n default",
    ]


def test_json_is_the_task(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    document = meshctl(*EXECUTE, "--payload", "1", "-o", "json").json
    assert document["spec"]["task_id"] == "task-001"
    assert document["state"] == "TASK_STATE_SUCCEEDED"
    assert document["output"]["inline"] == "MQ=="


def test_an_operator_is_asked_when_several_namespaces_can(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    for namespace in ("production", "staging"):
        meshd.add_agent(namespace, "worker-1", capabilities=["data-processing"])
    outcome = meshctl(*EXECUTE)
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "error: several namespaces have an agent for data-processing: production, staging",
        "next:  name one: --namespace production",
    ]


def test_says_within_two_seconds_who_could_run_it_and_goes_on_waiting(
    meshd: FakeMeshd, meshctl: Meshctl, capsys: pytest.CaptureFixture[str]
) -> None:
    meshd.add_agent("production", "worker-1", capabilities=["data-processing"], name="Task Worker")
    meshd.verdicts = [
        scheduler_service_pb2.AgentVerdict(
            agent_id="worker-1",
            verdict=scheduler_service_pb2.VERDICT_NOT_RUNNING,
            health=agent_pb2.HEALTH_DECLARED,
        )
    ]
    meshd.course = fake_meshd.stay_queued
    threading.Timer(2.0, meshd.release.set).start()
    outcome = meshctl(*EXECUTE)
    assert outcome.code == 0
    assert (
        "worker-1 in production can, but is not running: start its process with  "
        "meshctl deploy --agent-id worker-1 --agent-type worker --namespace production "
        "--agent-name 'Task Worker' --capabilities data-processing -- COMMAND"
    ) in outcome.err
    assert outcome.err.index("can, but is not running") < outcome.err.index("is running on worker-1")


def test_says_which_agent_to_deploy_when_nobody_can(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshd.verdicts = [
        scheduler_service_pb2.AgentVerdict(
            agent_id="worker-1", verdict=scheduler_service_pb2.VERDICT_CAPABILITY_MISSING
        )
    ]
    meshd.course = fake_meshd.stay_queued
    threading.Timer(2.0, meshd.release.set).start()
    outcome = meshctl(*EXECUTE)
    assert (
        "no agent in default has the capability data-processing: start one with  "
        "meshctl deploy --agent-id worker-2 --agent-type worker --namespace default "
        "--capabilities data-processing -- COMMAND"
    ) in outcome.err


def test_the_wait_survives_a_restart_of_meshd(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    meshd.course = fake_meshd.stay_queued

    def restart() -> None:
        meshd.release.set()
        meshd.stop()
        meshd.course = fake_meshd.succeed
        time.sleep(0.5)
        meshd.start()

    threading.Timer(0.5, restart).start()
    outcome = meshctl(*EXECUTE, "--payload", "1")
    assert (outcome.code, outcome.out) == (0, "1\n")


def test_a_meshd_that_stays_away_ends_the_wait_with_a_clear_error(
    meshd: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "GIVE_UP_S", 0.5)
    meshd.course = fake_meshd.stay_queued
    threading.Timer(0.5, meshd.stop).start()
    outcome = meshctl(*EXECUTE)
    assert outcome.code == 5
    assert "lost the connection" in outcome.err
    assert f"error: meshd at {meshd.address} stayed away; task-001 goes on without this wait" in outcome.err


def test_a_timeout_that_passes_while_meshd_is_away_leaves_the_end_unknown(
    meshd: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def course(mesh: FakeMeshd, task: task_pb2.Task) -> Iterator[scheduler_service_pb2.WatchTaskResponse]:
        threading.Thread(target=mesh.stop).start()
        yield from fake_meshd.stay_queued(mesh, task)

    monkeypatch.setattr("meshctl.commands.execute._TIMEOUT_MARGIN_S", 0.0)
    meshd.course = course
    outcome = meshctl(*EXECUTE, "--timeout", "1s")
    assert outcome.code == 6
    assert f"--timeout passed while {meshd.address} was away; how task-001 ended is unknown" in outcome.err


@pytest.mark.parametrize(
    ("lost", "code"),
    [(Problem("no answer came", "look there", ExitCode.UNREACHABLE), 5), (KeyboardInterrupt(), 130)],
)
def test_a_submit_without_an_answer_is_repeated_under_the_same_id(
    meshd: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch, lost: BaseException, code: int
) -> None:
    call = Mesh.call

    def unanswered(mesh: Mesh, method: Any, request: Any) -> Any:
        answer = call(mesh, method, request)
        if isinstance(request, scheduler_service_pb2.SubmitTaskRequest):
            raise lost
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Mesh, "call", unanswered)
        outcome = meshctl("execute", "--task-type", "data-processing", "--payload", "1")
    assert outcome.code == code
    assert outcome.err.splitlines()[-1].endswith(": that never runs it twice")
    ((_, task_id),) = meshd.tasks
    assert f"--task-id {task_id}:" in outcome.err
    again = meshctl("execute", "--task-id", task_id, "--task-type", "data-processing", "--payload", "1")
    assert (again.code, len(meshd.tasks)) == (0, 1)


def test_says_that_the_agent_was_told_to_stop(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    def course(mesh: FakeMeshd, task: task_pb2.Task) -> Iterator[scheduler_service_pb2.WatchTaskResponse]:
        task.state, task.attempt.number, task.attempt.agent_id = task_pb2.TASK_STATE_RUNNING, 1, "slow-1"
        yield scheduler_service_pb2.WatchTaskResponse(task=task)
        task.attempt.state = task_pb2.ATTEMPT_STATE_STOPPING
        yield scheduler_service_pb2.WatchTaskResponse(task=task)
        task.state = task_pb2.TASK_STATE_SUCCEEDED
        yield scheduler_service_pb2.WatchTaskResponse(task=task)

    meshd.course = course
    assert meshctl(*EXECUTE, "--timeout", "2s").err.splitlines() == [
        "task-001 in default is running on slow-1",
        "task-001 in default is running on slow-1, told to stop",
        "task-001 succeeded on slow-1.",
    ]


def test_ctrl_c_detaches_and_says_how_to_watch(
    meshd: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("meshctl.progress.show", interrupt)
    outcome = meshctl(*EXECUTE)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-2:] == [
        "interrupted; task-001 goes on in default",
        "next:  watch it: meshctl task watch task-001 -n default",
    ]


def test_an_agent_executes_in_its_own_namespace(
    meshd: FakeMeshd, meshctl: Meshctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    meshd.tokens["tok"] = auth_service_pb2.IntrospectTokenResponse(
        active=True, subject="agent:production/boss", namespace="production"
    )
    monkeypatch.setenv("AGENTMESH_TOKEN", "tok")
    outcome = meshctl(*EXECUTE, "--no-wait", "-o", "json")
    assert outcome.json["namespace"] == "production"
    assert meshd.sent(scheduler_service_pb2.SubmitTaskRequest).namespace == ""
