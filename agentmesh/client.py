"""`Mesh`: the asyncio client. Thin: it fills requests, keeps trying while the daemon restarts, and raises typed errors.

Messages of the contract (`agentmesh.v1`) are returned as they are. Calls run on the process's gRPC thread, so a `Mesh`
works from any event loop, also inside the handlers of an `Agent`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from agentmesh import tracing
from agentmesh.calls import FOREVER_S, TRY_TIMEOUT_S, WAIT_SLICE_S, Caller
from agentmesh.conditions import label_conditions
from agentmesh.connection import resolve_target
from agentmesh.draining import DrainCalls
from agentmesh.errors import MeshError, TaskNotSucceeded, WaitTimeout, from_reason
from agentmesh.grpc_thread import grpc_loop, on_grpc_thread
from agentmesh.payloads import PayloadLike, decode_payload
from agentmesh.task_specs import batches, duration, refusal_of, task_spec
from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    auth_service_pb2_grpc,
    error_reason_pb2,
    namespace_service_pb2,
    namespace_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    task_pb2,
    watch_pb2,
)
from agentmesh.v1.requirements_pb2 import LabelCondition, Requirements
from agentmesh.watching import TERMINAL_STATES, WatchEvents, agent_updates, task_updates

logger = logging.getLogger("agentmesh")

_FULL = scheduler_service_pb2.TaskView.TASK_VIEW_FULL
_PAGE_SIZE = 1_000

_scheduler = scheduler_service_pb2_grpc.SchedulerServiceStub
_registry = registry_service_pb2_grpc.RegistryServiceStub
_auth = auth_service_pb2_grpc.AuthServiceStub
_namespaces = namespace_service_pb2_grpc.NamespaceServiceStub


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task that was taken; `existed` says that the same task had been submitted before."""

    task: task_pb2.Task
    existed: bool

    @property
    def task_id(self) -> str:
        return self.task.spec.task_id

    @property
    def namespace(self) -> str:
        return self.task.namespace


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one spec of `submit_many`; `error` is None when the task was taken."""

    task_id: str
    existed: bool
    error: MeshError | None


class Mesh(DrainCalls):
    """A connection to the mesh; use it as `async with Mesh() as mesh`.

    Arguments fall back to AGENTMESH_ADDRESS, AGENTMESH_CA, AGENTMESH_INSECURE, AGENTMESH_TOKEN and
    AGENTMESH_NAMESPACE. `token` may be a function that returns the current token: it is called in a thread, once for
    each try of a call. `namespace` is meant by every call that names none; without one it is the token's, or "default"
    on the operator socket. Every method raises MeshError; those that find no daemon try again for `retry_for_s`
    seconds. A child by fork of a process that used the mesh cannot use it.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        namespace: str | None = None,
        token: str | Callable[[], str | None] | None = None,
        ca: str | os.PathLike[str] | None = None,
        insecure: bool | None = None,
        retry_for_s: float = 10.0,
    ) -> None:
        known = token if token is not None else os.environ.get("AGENTMESH_TOKEN") or None
        self._caller = Caller(
            resolve_target(address, ca, insecure),
            known,
            retry_for_s=retry_for_s,
        )
        #: The namespace of calls that name none; "" means the token's.
        self.namespace = namespace or os.environ.get("AGENTMESH_NAMESPACE") or ("" if known else "default")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls in flight end."""
        await on_grpc_thread(self._caller.close())

    # ---- tasks ---------------------------------------------------------------------------------------------------

    async def submit(
        self,
        task_type: str,
        payload: PayloadLike = None,
        *,
        task_id: str | None = None,
        priority: int | str | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        execution_timeout_s: float | None = None,
        retries: int | task_pb2.RetryPolicy | None = None,
        requirements: Requirements | None = None,
        labels: Mapping[str, str] | None = None,
        context_id: str = "",
        parent_task_id: str = "",
        strategy: task_pb2.PlacementStrategy.ValueType | str | None = None,
        traceparent: str = "",
        namespace: str | None = None,
    ) -> Submitted:
        """Submits one task; when this returns it survives the death of the daemon. Arguments: see `task_spec`.

        Where the program uses OpenTelemetry and passes no `traceparent`, the task carries that of a span of its own.
        """
        spec = task_spec(
            task_type,
            payload,
            task_id=task_id,
            priority=priority,
            timeout_s=timeout_s,
            queue_timeout_s=queue_timeout_s,
            execution_timeout_s=execution_timeout_s,
            retries=retries,
            requirements=requirements,
            labels=labels,
            context_id=context_id,
            parent_task_id=parent_task_id,
            strategy=strategy,
            traceparent=traceparent,
        )
        target = self._in(namespace)
        with tracing.submitting([spec], target) as (traced,):
            request = scheduler_service_pb2.SubmitTaskRequest(namespace=target, spec=traced)
            answer = await on_grpc_thread(self._caller.call(lambda c: _scheduler(c).SubmitTask, request))
        logger.debug(
            "task %s is submitted",
            spec.task_id,
            extra={"task_id": spec.task_id, "namespace": answer.task.namespace or target},
        )
        return Submitted(answer.task, answer.existed)

    async def submit_many(
        self, specs: Iterable[task_pb2.TaskSpec], *, namespace: str | None = None
    ) -> list[ItemResult]:
        """Submits specs made by `task_spec`, in as few messages as they fit into; one result each, in order.

        Not atomic: refused items carry an error, and those that fit into no message are not sent. When the daemon
        stays away the call raises; submitting the same specs again is safe.
        """
        target = self._in(namespace)
        unsent: dict[int, MeshError] = {}
        results: list[ItemResult] = []
        with tracing.submitting(specs, target) as wanted:
            for position, spec in enumerate(wanted):
                if (refusal := refusal_of(spec)) is not None:
                    unsent[position] = refusal
            for batch in batches(spec for position, spec in enumerate(wanted) if position not in unsent):
                request = scheduler_service_pb2.SubmitTasksRequest(namespace=target, specs=batch)
                answer = await on_grpc_thread(self._caller.call(lambda c: _scheduler(c).SubmitTasks, request))
                results += (_item_result(result) for result in answer.results)
        logger.debug("%d tasks were sent", len(results), extra={"namespace": target})
        for position in sorted(unsent):
            results.insert(
                position, ItemResult(wanted[position].task_id, existed=False, error=unsent[position])
            )
        return results

    async def get(
        self,
        task_id: str,
        *,
        namespace: str | None = None,
        view: scheduler_service_pb2.TaskView.ValueType = _FULL,
    ) -> task_pb2.Task:
        """Returns a task as it is now."""
        request = scheduler_service_pb2.GetTaskRequest(
            namespace=self._in(namespace), task_id=task_id, view=view
        )
        return (await on_grpc_thread(self._caller.call(lambda c: _scheduler(c).GetTask, request))).task

    async def wait(
        self,
        task_id: str,
        timeout_s: float | None = None,
        *,
        namespace: str | None = None,
        view: scheduler_service_pb2.TaskView.ValueType = _FULL,
    ) -> task_pb2.Task:
        """Returns a task once it has ended, across restarts of the daemon; WaitTimeout after `timeout_s`."""
        return await on_grpc_thread(self._wait(task_id, timeout_s, self._in(namespace), view))

    async def result(
        self, task_id: str, timeout_s: float | None = None, *, namespace: str | None = None
    ) -> object:
        """Waits for a task and returns its result as a Python value; TaskNotSucceeded when it ended otherwise."""
        return result_of(await self.wait(task_id, timeout_s, namespace=namespace))

    async def watch(
        self, task_id: str, *, namespace: str | None = None, retry_for_s: float | None = None
    ) -> AsyncGenerator[scheduler_service_pb2.WatchTaskResponse, None]:
        """Yields the task now, then its changes, progress and output; the last event is its end.

        The stream is opened again when it breaks; what was seen is not repeated.
        """
        request = scheduler_service_pb2.WatchTaskRequest(namespace=self._in(namespace), task_id=task_id)
        events = WatchEvents(self._caller, request, retry_for_s)
        try:
            while (event := await on_grpc_thread(events.next())) is not None:
                yield event
        finally:
            grpc_loop().call_soon_threadsafe(events.cancel)

    async def watch_tasks(
        self,
        *,
        states: Sequence[task_pb2.TaskState.ValueType] = (),
        task_type: str = "",
        agent_id: str = "",
        after: watch_pb2.WatchPosition | None = None,
        namespace: str | None = None,
        retry_for_s: float | None = None,
    ) -> AsyncGenerator[scheduler_service_pb2.WatchTasksResponse, None]:
        """Yields updates about all tasks that meet every condition: the open ones first, then each change.

        Apply the changes of an update in order; when its `reset` is set, forget everything known before that. The
        stream is opened again when it breaks and goes on where it was; `after` is a position kept from elsewhere.
        """
        request = scheduler_service_pb2.WatchTasksRequest(
            namespace=self._in(namespace), states=states, task_type=task_type, agent_id=agent_id, after=after
        )
        updates = task_updates(self._caller, request, retry_for_s)
        try:
            while True:
                yield await on_grpc_thread(updates.next())
        finally:
            grpc_loop().call_soon_threadsafe(updates.cancel)

    async def cancel(
        self, task_id: str, *, grace_s: float | None = None, namespace: str | None = None
    ) -> task_pb2.Task:
        """Asks for the end of a task; its agent has `grace_s` seconds (10 when absent) to stop."""
        request = scheduler_service_pb2.CancelTaskRequest(
            namespace=self._in(namespace), task_id=task_id, grace=duration(grace_s)
        )
        return (await on_grpc_thread(self._caller.call(lambda c: _scheduler(c).CancelTask, request))).task

    async def list_tasks(
        self,
        *,
        states: Sequence[task_pb2.TaskState.ValueType] = (),
        task_type: str = "",
        agent_id: str = "",
        limit: int | None = _PAGE_SIZE,
        namespace: str | None = None,
    ) -> list[task_pb2.Task]:
        """Returns tasks without payloads, newest first, at most `limit`; None: all."""
        tasks: list[task_pb2.Task] = []
        request = scheduler_service_pb2.ListTasksRequest(
            namespace=self._in(namespace), states=states, task_type=task_type, agent_id=agent_id
        )
        while limit is None or len(tasks) < limit:
            request.page_size = _PAGE_SIZE if limit is None else min(_PAGE_SIZE, limit - len(tasks))
            page = await on_grpc_thread(self._caller.call(lambda c: _scheduler(c).ListTasks, request))
            tasks += page.tasks
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        return tasks

    async def explain(
        self, task_id: str, *, namespace: str | None = None
    ) -> scheduler_service_pb2.ExplainTaskResponse:
        """Returns why a task is where it is, agent by agent."""
        request = scheduler_service_pb2.ExplainTaskRequest(namespace=self._in(namespace), task_id=task_id)
        return await on_grpc_thread(self._caller.call(lambda c: _scheduler(c).ExplainTask, request))

    async def workload(
        self, agent_id: str = "", *, namespace: str | None = None
    ) -> list[scheduler_service_pb2.AgentWorkload]:
        """Returns what agents hold and have done; without `agent_id` those of the whole namespace."""
        workloads: list[scheduler_service_pb2.AgentWorkload] = []
        request = scheduler_service_pb2.GetWorkloadRequest(
            namespace=self._in(namespace), agent_id=agent_id, page_size=_PAGE_SIZE
        )
        while True:
            page = await on_grpc_thread(self._caller.call(lambda c: _scheduler(c).GetWorkload, request))
            workloads += page.workloads
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return workloads

    # ---- agents and the mesh -------------------------------------------------------------------------------------

    async def declare_agent(
        self, spec: agent_pb2.AgentSpec, *, namespace: str | None = None
    ) -> registry_service_pb2.DeclareAgentResponse:
        """Makes an agent known before its process runs."""
        request = registry_service_pb2.DeclareAgentRequest(namespace=self._in(namespace), spec=spec)
        return await on_grpc_thread(self._caller.call(lambda c: _registry(c).DeclareAgent, request))

    async def get_agent(self, agent_id: str, *, namespace: str | None = None) -> agent_pb2.Agent:
        """Returns one agent."""
        request = registry_service_pb2.GetAgentRequest(namespace=self._in(namespace), agent_id=agent_id)
        return (await on_grpc_thread(self._caller.call(lambda c: _registry(c).GetAgent, request))).agent

    async def list_agents(
        self,
        *,
        type: agent_pb2.AgentType.ValueType = agent_pb2.AgentType.AGENT_TYPE_UNSPECIFIED,
        capabilities: Sequence[str] = (),
        any_capabilities: Sequence[str] = (),
        labels: Sequence[LabelCondition | str] = (),
        health: Sequence[agent_pb2.Health.ValueType] = (),
        min_free_slots: int = 0,
        text_prefix: str = "",
        namespace: str | None = None,
    ) -> list[agent_pb2.Agent]:
        """Returns all agents that meet every condition, ordered by namespace and id, with the slots free now.

        `labels` are conditions of the contract or texts such as "zone=a,b" or "!gpu" (see `conditions`).
        `text_prefix` is how the agent's id or name begins.
        """
        agents: list[agent_pb2.Agent] = []
        request = registry_service_pb2.ListAgentsRequest(
            namespace=self._in(namespace),
            type=type,
            capabilities=capabilities,
            any_capabilities=any_capabilities,
            labels=label_conditions(labels),
            health=health,
            min_free_slots=min_free_slots,
            text_prefix=text_prefix,
            page_size=_PAGE_SIZE,
        )
        while True:
            page = await on_grpc_thread(self._caller.call(lambda c: _registry(c).ListAgents, request))
            agents += page.agents
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return agents

    async def watch_agents(
        self,
        *,
        type: agent_pb2.AgentType.ValueType = agent_pb2.AgentType.AGENT_TYPE_UNSPECIFIED,
        capabilities: Sequence[str] = (),
        any_capabilities: Sequence[str] = (),
        labels: Sequence[LabelCondition | str] = (),
        health: Sequence[agent_pb2.Health.ValueType] = (),
        text_prefix: str = "",
        after: watch_pb2.WatchPosition | None = None,
        namespace: str | None = None,
        retry_for_s: float | None = None,
    ) -> AsyncGenerator[registry_service_pb2.WatchAgentsResponse, None]:
        """Yields updates about all agents that meet every condition: those that do now, then each change.

        Read as those of `watch_tasks`; conditions are those of `list_agents`.
        """
        request = registry_service_pb2.WatchAgentsRequest(
            namespace=self._in(namespace),
            type=type,
            capabilities=capabilities,
            any_capabilities=any_capabilities,
            labels=label_conditions(labels),
            health=health,
            text_prefix=text_prefix,
            after=after,
        )
        updates = agent_updates(self._caller, request, retry_for_s)
        try:
            while True:
                yield await on_grpc_thread(updates.next())
        finally:
            grpc_loop().call_soon_threadsafe(updates.cancel)

    async def status(self, *, namespace: str | None = None) -> registry_service_pb2.GetMeshStatusResponse:
        """Returns the daemon's version, the bounds in force, and agents and tasks in numbers."""
        request = registry_service_pb2.GetMeshStatusRequest(namespace=self._in(namespace))
        return await on_grpc_thread(self._caller.call(lambda c: _registry(c).GetMeshStatus, request))

    async def create_namespace(
        self, name: str, description: str = ""
    ) -> namespace_service_pb2.CreateNamespaceResponse:
        """Creates a namespace; creating it again with the same content changes nothing."""
        request = namespace_service_pb2.CreateNamespaceRequest(name=name, description=description)
        return await on_grpc_thread(self._caller.call(lambda c: _namespaces(c).CreateNamespace, request))

    # ---- tokens --------------------------------------------------------------------------------------------------

    async def issue_token(self, request: auth_service_pb2.IssueTokenRequest) -> auth_service_pb2.Token:
        """Issues a token for an agent. Tried once: a repetition would issue another one."""
        answer = await on_grpc_thread(
            self._caller.call(lambda c: _auth(c).IssueToken, request, deadline_s=0.0)
        )
        return answer.token

    async def revoke_token(
        self, request: auth_service_pb2.RevokeTokenRequest
    ) -> auth_service_pb2.RevokeTokenResponse:
        """Takes a token with its family, or an agent, away; refused everywhere when this returns."""
        return await on_grpc_thread(self._caller.call(lambda c: _auth(c).RevokeToken, request))

    async def introspect_token(self, token: str = "") -> auth_service_pb2.IntrospectTokenResponse:
        """Tells what a token means and whether it is good; without one, the caller's own."""
        request = auth_service_pb2.IntrospectTokenRequest(token=token)
        return await on_grpc_thread(self._caller.call(lambda c: _auth(c).IntrospectToken, request))

    async def create_join_token(
        self, request: auth_service_pb2.CreateJoinTokenRequest
    ) -> auth_service_pb2.CreateJoinTokenResponse:
        """Creates a token by which a process joins as an agent. Tried once: a repetition would create another one."""
        return await on_grpc_thread(
            self._caller.call(lambda c: _auth(c).CreateJoinToken, request, deadline_s=0.0)
        )

    # ---- inside --------------------------------------------------------------------------------------------------

    def _in(self, namespace: str | None) -> str:
        return self.namespace if namespace is None else namespace

    async def _wait(
        self,
        task_id: str,
        timeout_s: float | None,
        namespace: str,
        view: scheduler_service_pb2.TaskView.ValueType,
    ) -> task_pb2.Task:
        deadline_s = self._caller.deadline_s(FOREVER_S if timeout_s is None else timeout_s)
        while True:
            slice_s = min(WAIT_SLICE_S, max(0.0, deadline_s - self._caller.deadline_s(0.0)))
            request = scheduler_service_pb2.WaitTaskRequest(
                namespace=namespace, task_id=task_id, timeout=duration(slice_s), view=view
            )
            answer = await self._caller.call(
                lambda c: _scheduler(c).WaitTask,
                request,
                deadline_s=deadline_s,
                timeout_s=slice_s + TRY_TIMEOUT_S,
                held=True,
            )
            task = answer.task
            if task.state in TERMINAL_STATES:
                return task
            if self._caller.deadline_s(0.0) >= deadline_s:
                state = task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_")
                timeout = WaitTimeout(
                    f"task {task_id!r} is still {state} after {timeout_s:g} s; it goes on",
                    reason="WAIT_TIMEOUT",
                )
                timeout.task = task
                raise timeout


def result_of(task: task_pb2.Task) -> object:
    """The result of an ended task as a Python value; raises TaskNotSucceeded when it has none."""
    if task.state == task_pb2.TaskState.TASK_STATE_SUCCEEDED:
        return decode_payload(task.output)
    state = task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_")
    why = task_pb2.OutcomeReason.Name(task.outcome_reason).removeprefix("OUTCOME_REASON_")
    failure = f": {task.failure.type}: {task.failure.message}" if task.HasField("failure") else ""
    raise TaskNotSucceeded(f"task {task.spec.task_id!r} is {state} ({why}){failure}", task)


def _item_result(result: scheduler_service_pb2.SubmitResult) -> ItemResult:
    if not result.HasField("error"):
        return ItemResult(result.task_id, result.existed, error=None)
    try:
        reason = error_reason_pb2.ErrorReason.Name(result.error.reason).removeprefix("ERROR_REASON_")
    except ValueError:  # from a later version of the contract
        reason = ""
    return ItemResult(result.task_id, result.existed, from_reason(reason, result.error.message))
