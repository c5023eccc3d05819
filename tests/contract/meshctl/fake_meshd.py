"""A meshd of a few dictionaries that answers every call meshctl makes, on a Unix socket in this process.

It keeps what the contract says about ids, namespaces and errors, and nothing else: it schedules nothing, a
task follows `FakeMeshd.course`. Requests are recorded, so that tests can look at what was sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    auth_service_pb2_grpc,
    namespace_service_pb2,
    namespace_service_pb2_grpc,
    payload_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    task_pb2,
)

Context = grpc.ServicerContext
MAX_PAGE = 2
"""Few, so that every list is followed over several pages."""
Course = Callable[["FakeMeshd", task_pb2.Task], Iterator[scheduler_service_pb2.WatchTaskResponse]]


def refuse(context: Context, code: grpc.StatusCode, reason: str, message: str) -> NoReturn:
    """Ends a call the way meshd does: google.rpc.Status with an ErrorInfo."""
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="agentmesh"))
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError


def now() -> Timestamp:
    """The present."""
    time = Timestamp()
    time.GetCurrentTime()
    return time


def succeed(mesh: FakeMeshd, task: task_pb2.Task) -> Iterator[scheduler_service_pb2.WatchTaskResponse]:
    """The usual course of a task: queued, running with progress, its input as its result."""
    yield scheduler_service_pb2.WatchTaskResponse(task=task)
    task.state = task_pb2.TASK_STATE_RUNNING
    task.attempt.number, task.attempt.agent_id = 1, "worker-1"
    yield scheduler_service_pb2.WatchTaskResponse(task=task)
    yield scheduler_service_pb2.WatchTaskResponse(
        progress=task_pb2.ProgressReport(attempt=1, seq=1, fraction=0.5, message="half \x1b[31mway")
    )
    task.state, task.outcome_reason = task_pb2.TASK_STATE_SUCCEEDED, task_pb2.OUTCOME_REASON_COMPLETED
    task.output.CopyFrom(task.spec.payload)
    yield scheduler_service_pb2.WatchTaskResponse(task=task)


def ends_as(state: task_pb2.TaskState.ValueType, reason: task_pb2.OutcomeReason.ValueType) -> Course:
    """A course that ends at once in another state than SUCCEEDED."""

    def course(mesh: FakeMeshd, task: task_pb2.Task) -> Iterator[scheduler_service_pb2.WatchTaskResponse]:
        task.state, task.outcome_reason = state, reason
        if state == task_pb2.TASK_STATE_FAILED:
            task.failure.type, task.failure.message = "ValueError", "no such column"
        yield scheduler_service_pb2.WatchTaskResponse(task=task)

    return course


def stay_queued(mesh: FakeMeshd, task: task_pb2.Task) -> Iterator[scheduler_service_pb2.WatchTaskResponse]:
    """A course without an agent, until `mesh.release` is set."""
    yield scheduler_service_pb2.WatchTaskResponse(task=task)
    mesh.release.wait(20)
    yield from succeed(mesh, task)


class FakeMeshd(
    registry_service_pb2_grpc.RegistryServiceServicer,
    scheduler_service_pb2_grpc.SchedulerServiceServicer,
    auth_service_pb2_grpc.AuthServiceServicer,
    namespace_service_pb2_grpc.NamespaceServiceServicer,
):
    """All services over shared dictionaries."""

    def __init__(self, socket: Path) -> None:
        self.address = f"unix:{socket}"
        self.namespaces = ["_mesh", "default"]
        self.agents: dict[tuple[str, str], agent_pb2.Agent] = {}
        self.tasks: dict[tuple[str, str], task_pb2.Task] = {}
        self.requests: list[Any] = []
        self.tokens: dict[str, auth_service_pb2.IntrospectTokenResponse] = {}
        self.refusals: dict[str, tuple[grpc.StatusCode, str, str]] = {}
        #: Changes what GetMeshStatus answers.
        self.change_status: Callable[[registry_service_pb2.GetMeshStatusResponse], object] = lambda answer: (
            None
        )
        self.audit_ages_s: list[int] = [0]
        self.verdicts: list[scheduler_service_pb2.AgentVerdict] = []
        self.course: Course = succeed
        #: How many tasks go before each.
        self.before = 2
        self.drains: dict[tuple[str, bytes], registry_service_pb2.DrainRule] = {}
        #: How often one may look before drained agents are idle, and how often meshd is away instead of answering.
        self.idle_after_looks = 1_000
        self.away_looks = 0
        self.ended_count = 0
        self.release = threading.Event()
        self.updates: dict[str, list[list[Any]]] = {"WatchAgents": [], "WatchTasks": []}
        """Updates of each stream that is opened, in order; after the last ones a stream stays open."""
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listens; also after a stop."""
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(self, self._server)
        scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server(self, self._server)
        auth_service_pb2_grpc.add_AuthServiceServicer_to_server(self, self._server)
        namespace_service_pb2_grpc.add_NamespaceServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        """Ends every call at once."""
        if self._server is not None:
            self._server.stop(0).wait()

    def sent(self, kind: type[Any]) -> Any:
        """The last request of a kind."""
        return [request for request in self.requests if isinstance(request, kind)][-1]

    def add_agent(self, namespace: str, agent_id: str, **spec: Any) -> agent_pb2.Agent:
        """Makes an agent known."""
        agent = agent_pb2.Agent(
            namespace=namespace, health=agent_pb2.HEALTH_DECLARED, health_time=now(), create_time=now()
        )
        agent.spec.MergeFrom(
            agent_pb2.AgentSpec(
                agent_id=agent_id, **{"type": agent_pb2.AGENT_TYPE_WORKER, "slots": 1, **spec}
            )
        )
        self.agents[namespace, agent_id] = agent
        return agent

    def _enter(self, request: Any, context: Context) -> str:
        """Records a call and returns its namespace; refuses what a test told it to."""
        self.requests.append(request)
        method = type(request).__name__.removesuffix("Request")
        if method in self.refusals:
            refuse(context, *self.refusals[method])
        caller = self._caller(context)
        name: str = getattr(request, "namespace", "")
        return caller.namespace if caller is not None and not name else name

    def _caller(self, context: Context) -> auth_service_pb2.IntrospectTokenResponse | None:
        metadata = dict(context.invocation_metadata())
        if "authorization" not in metadata:
            return None
        token = str(metadata["authorization"]).removeprefix("Bearer ")
        if token not in self.tokens:
            refuse(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "the token is not one of ours")
        return self.tokens[token]

    def DeclareAgent(self, request: Any, context: Context) -> Any:
        name = self._enter(request, context)
        known = self.agents.get((name, request.spec.agent_id))
        agent = known or self.add_agent(name, request.spec.agent_id)
        if not agent.session_id:  # a running agent stays as it is
            agent.spec.CopyFrom(request.spec)
            agent.spec.capabilities.sort()
        created = known is None
        return registry_service_pb2.DeclareAgentResponse(agent=agent, created=created)

    def GetAgent(self, request: Any, context: Context) -> Any:
        name = self._enter(request, context)
        agent = self.agents.get((name, request.agent_id))
        if agent is None:
            refuse(
                context,
                grpc.StatusCode.NOT_FOUND,
                "AGENT_NOT_FOUND",
                f"no agent {request.agent_id} in {name}",
            )
        return registry_service_pb2.GetAgentResponse(agent=agent)

    def ListAgents(self, request: Any, context: Context) -> Any:
        """Pages of one agent, so that every list is followed to its end."""
        name = self._enter(request, context)
        found = [
            agent
            for (namespace, _), agent in sorted(self.agents.items())
            if name in ("", namespace)
            and request.type in (0, agent.spec.type)
            and set(request.capabilities) <= set(agent.spec.capabilities)
            and (not request.health or agent.health in request.health)
        ]
        start = int(request.page_token or 0)
        more = str(start + 1) if start + 1 < len(found) else ""
        return registry_service_pb2.ListAgentsResponse(agents=found[start : start + 1], next_page_token=more)

    def DrainAgents(self, request: Any, context: Context) -> Any:
        """The same selector is the same drain; one agent is as busy as its `held_attempts` say."""
        name = self._enter(request, context)
        key = (name, request.selector.SerializeToString())
        others = [rule.drain_id for other, rule in self.drains.items() if other != key]
        rule = self.drains.get(key)
        changed = (rule is None) is not request.lift
        if request.lift:
            self.drains.pop(key, None)
        elif rule is None:
            rule = self.drains[key] = registry_service_pb2.DrainRule(
                namespace=name, drain_id=f"d{len(self.drains)}", selector=request.selector, create_time=now()
            )
            rule.reason, rule.creator = request.reason, "operator:local"
        return registry_service_pb2.DrainAgentsResponse(
            drain=rule,
            changed=changed,
            agents=self._selected(name, request.selector),
            other_drain_ids=others,
        )

    def ListDrains(self, request: Any, context: Context) -> Any:
        name = self._enter(request, context)
        answer = registry_service_pb2.ListDrainsResponse()
        for (namespace, _), rule in self.drains.items():
            if name in ("", namespace):
                agents = self._selected(namespace, rule.selector)
                answer.drains.add(
                    drain=rule, agent_count=agents.agent_count, held_attempts=agents.held_attempts
                )
        return answer

    def WaitAgentsIdle(self, request: Any, context: Context) -> Any:
        """A look without time counts for nothing."""
        name = self._enter(request, context)
        if request.timeout.ToMilliseconds():
            if self.away_looks:
                self.away_looks -= 1
                refuse(context, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "meshd is going down")
            self.idle_after_looks -= 1
            if self.idle_after_looks <= 0:
                for agent in self.agents.values():
                    agent.held_attempts = 0
        return registry_service_pb2.WaitAgentsIdleResponse(agents=self._selected(name, request.selector))

    def _selected(self, name: str, selector: Any) -> registry_service_pb2.SelectedAgents:
        found = registry_service_pb2.SelectedAgents()
        for (namespace, agent_id), agent in sorted(self.agents.items()):
            if namespace != name or not fnmatchcase(agent_id, selector.agent_id_pattern or "*"):
                continue
            if any(agent.spec.labels.get(each.label) not in each.values for each in selector.labels):
                continue
            found.agent_count += 1
            found.held_attempts += agent.held_attempts
            if agent.held_attempts:
                found.busy_agents.add(
                    agent_id=agent_id, held_attempts=agent.held_attempts, task_ids=["task-1"]
                )
        return found

    def WatchAgents(self, request: Any, context: Context) -> Iterator[Any]:
        self._enter(request, context)
        yield from self._updates("WatchAgents", context)

    def WatchTasks(self, request: Any, context: Context) -> Iterator[Any]:
        self._enter(request, context)
        yield from self._updates("WatchTasks", context)

    def _updates(self, method: str, context: Context) -> Iterator[Any]:
        """A scripted stream; the last one stays open until meshctl ends it."""
        streams = self.updates[method]
        yield from streams.pop(0) if streams else []
        if not streams:
            ended = threading.Event()
            context.add_callback(ended.set)
            ended.wait(20)

    def GetMeshStatus(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        answer = registry_service_pb2.GetMeshStatusResponse(version="9.9.9", start_time=now())
        self.ended_count += 30
        answer.bounds.killed.FromSeconds(1)
        answer.bounds.unreachable.FromSeconds(5)
        answer.bounds.hung.FromSeconds(5)
        entry = answer.namespaces.add(namespace="production", free_slots=3, ended_count=self.ended_count)
        entry.agents.add(health=agent_pb2.HEALTH_HEALTHY, count=2)
        entry.tasks.add(state=task_pb2.TASK_STATE_QUEUED, count=7)
        entry.oldest_queued_age.FromSeconds(90)
        answer.server_time.CopyFrom(now())
        answer.keepalive.FromSeconds(1)
        answer.storage.engine, answer.storage.free_bytes = "SQLite 3.45.1", 1 << 30
        self.change_status(answer)
        return answer

    def SubmitTask(self, request: Any, context: Context) -> Any:
        name = self._enter(request, context)
        if name == "":
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_REQUIRED", "namespace is required")
        known = self.tasks.get((name, request.spec.task_id))
        if known is None:
            task = task_pb2.Task(
                namespace=name, spec=request.spec, state=task_pb2.TASK_STATE_QUEUED, submit_time=now()
            )
            self.tasks[name, request.spec.task_id] = task
            return scheduler_service_pb2.SubmitTaskResponse(task=task)
        if known.spec != request.spec:
            refuse(context, grpc.StatusCode.ALREADY_EXISTS, "TASK_EXISTS", "the task id is taken")
        return scheduler_service_pb2.SubmitTaskResponse(task=known, existed=True)

    def GetTask(self, request: Any, context: Context) -> Any:
        return scheduler_service_pb2.GetTaskResponse(task=self._task(request, context))

    def CancelTask(self, request: Any, context: Context) -> Any:
        task = self._task(request, context)
        task.state = task_pb2.TASK_STATE_CANCELLED
        return scheduler_service_pb2.CancelTaskResponse(task=task)

    def ListTasks(self, request: Any, context: Context) -> Any:
        name = self._enter(request, context)
        found = [
            task
            for (namespace, _), task in sorted(self.tasks.items())
            if name in ("", namespace) and (not request.states or task.state in request.states)
        ]
        start = int(request.page_token or 0)
        end = start + min(request.page_size, MAX_PAGE)
        more = str(end) if end < len(found) else ""
        return scheduler_service_pb2.ListTasksResponse(tasks=found[start:end], next_page_token=more)

    def WatchTask(self, request: Any, context: Context) -> Iterator[scheduler_service_pb2.WatchTaskResponse]:
        task = self._task(request, context)
        if task.state in (task_pb2.TASK_STATE_SUCCEEDED, task_pb2.TASK_STATE_FAILED):
            yield scheduler_service_pb2.WatchTaskResponse(task=task)
        else:
            yield from self.course(self, task)

    def ExplainTask(self, request: Any, context: Context) -> Any:
        task = self._task(request, context)
        return scheduler_service_pb2.ExplainTaskResponse(
            task=task,
            summary="No agent that fits is running.",
            queue_position=self.before,
            verdicts=self.verdicts,
        )

    def GetWorkload(self, request: Any, context: Context) -> Any:
        name = self._enter(request, context)
        answer = scheduler_service_pb2.GetWorkloadResponse()
        for (namespace, agent_id), agent in sorted(self.agents.items()):
            if name in ("", namespace) and request.agent_id in ("", agent_id):
                entry = answer.workloads.add(
                    namespace=namespace, agent_id=agent_id, health=agent.health, slots=4
                )
                entry.free_slots, entry.succeeded_count = 3, 12
                entry.held.extend(task for task in self.tasks.values() if task.namespace == namespace)
        return answer

    def _task(self, request: Any, context: Context) -> task_pb2.Task:
        name = self._enter(request, context)
        task = self.tasks.get((name, request.task_id))
        if task is None:
            refuse(
                context, grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND", f"no task {request.task_id} in {name}"
            )
        return task

    def CreateNamespace(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        created = request.name not in self.namespaces
        self.namespaces = sorted({*self.namespaces, request.name})
        namespace = namespace_service_pb2.Namespace(name=request.name, create_time=now())
        return namespace_service_pb2.CreateNamespaceResponse(namespace=namespace, created=created)

    def GetNamespace(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        if request.name not in self.namespaces:
            refuse(context, grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND", f"no namespace {request.name}")
        namespace = namespace_service_pb2.Namespace(name=request.name, create_time=now(), epoch=3)
        return namespace_service_pb2.GetNamespaceResponse(namespace=namespace)

    def ListNamespaces(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        namespaces = [
            namespace_service_pb2.Namespace(name=name, create_time=now()) for name in self.namespaces
        ]
        return namespace_service_pb2.ListNamespacesResponse(namespaces=namespaces)

    def IssueToken(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        token = auth_service_pb2.Token(value="signed.token.value", family="fam-1", expire_time=now())
        return auth_service_pb2.IssueTokenResponse(token=token)

    def RevokeToken(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        known = not request.agent_id or (request.namespace, request.agent_id) in self.agents
        return auth_service_pb2.RevokeTokenResponse(streams_ended=int(known))

    def IntrospectToken(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        if request.token:
            return self.tokens.get(
                request.token, auth_service_pb2.IntrospectTokenResponse(inactive_reason="TOKEN_INVALID")
            )
        return self._caller(context)

    def ListKeys(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        return auth_service_pb2.ListKeysResponse(
            keys=[auth_service_pb2.SigningKey(key_id="key-1", public_key=b"\x01" * 32, create_time=now())]
        )

    def CreateJoinToken(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        return auth_service_pb2.CreateJoinTokenResponse(join_token="join-me", expire_time=now())

    def ListAuditEvents(self, request: Any, context: Context) -> Any:
        self._enter(request, context)
        answer = auth_service_pb2.ListAuditEventsResponse()
        for age_s in self.audit_ages_s:
            event = answer.events.add(
                namespace="production",
                sequence=1,
                time=now(),
                subject="operator:local",
                peer="socket",
                count=1,
            )
            event.time.seconds -= age_s
            event.method, event.reason = "SubmitTask", "ACCESS_DENIED"
        return answer


def echo_payload(text: str, media_type: str) -> payload_pb2.Payload:
    """A payload of text."""
    return payload_pb2.Payload(inline=text.encode(), media_type=media_type)
