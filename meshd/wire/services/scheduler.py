"""SchedulerService: tasks in, results out, and the stream of agents that work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from copy import copy
from typing import Any

from agentmesh.v1 import scheduler_service_pb2 as pb
from agentmesh.v1 import scheduler_service_pb2_grpc as pb_grpc
from agentmesh.v1 import task_pb2
from meshd.domain.access import may_read_part
from meshd.domain.commands import Cancel
from meshd.domain.discovery import AgentFilter, place_of
from meshd.domain.errors import Refusal
from meshd.domain.limits import DEFAULT_GRACE_MS, MAX_BATCH_ITEMS, MAX_GRACE_MS, MAX_MESSAGE_BYTES
from meshd.domain.state import Namespace
from meshd.domain.values import Agent, Task, TaskSpec, TaskState
from meshd.engine.explaining import explain
from meshd.engine.mesh import Entry, Mesh
from meshd.engine.selection import first_agents
from meshd.engine.submission import Submission, new_task_id
from meshd.engine.watch import OutputPiece, ProgressNote
from meshd.ports.store import TaskFilter
from meshd.wire import page_token, validate
from meshd.wire.codec import tasks as codec
from meshd.wire.codec import watches
from meshd.wire.codec.submit_results import submit_results
from meshd.wire.codec.values import enum
from meshd.wire.context import current_call
from meshd.wire.fitting import fitting
from meshd.wire.services.registry import agent_not_found, namespace_of_agents, namespaces, one_namespace
from meshd.wire.services.sessions import SessionStreams

DEFAULT_WAIT_MS = 60_000
MAX_WAIT_MS = 300_000
MAX_PAST_ATTEMPTS = 32
MAX_VERDICTS = 100
MAX_HELD_SHOWN = 100
MAX_HELD_BYTES = MAX_MESSAGE_BYTES // 2
"""Of those shown, so that an agent with large tasks fits into an answer."""


class SchedulerService(pb_grpc.SchedulerServiceServicer):
    """Takes tasks, hands them to agents, keeps their results."""

    def __init__(self, mesh: Mesh, submission: Submission, streams: SessionStreams) -> None:
        self._mesh = mesh
        self._submission = submission
        self._streams = streams

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: Any) -> pb.SubmitTaskResponse:
        """Take one task."""
        call = current_call()
        ns = namespace_of_agents(self._mesh, call)
        self._submission.admit()
        spec = codec.spec_from(request.spec, "" if request.spec.task_id else new_task_id())
        (result,) = await self._submission.submit(ns, [spec], call, copies=True)
        if isinstance(result, Refusal):
            raise result
        task = result.task or await self._mesh.find_task(ns, result.task_id)
        response = pb.SubmitTaskResponse(existed=result.existed)
        codec.write_task(response.task, task)
        return response

    async def SubmitTasks(self, request: pb.SubmitTasksRequest, context: Any) -> pb.SubmitTasksResponse:
        """Take many tasks, with a result for each."""
        call = current_call()
        ns = namespace_of_agents(self._mesh, call)
        if len(request.specs) > MAX_BATCH_ITEMS:
            raise validate.invalid(
                "specs",
                f"has {len(request.specs)} entries; at most {MAX_BATCH_ITEMS} are allowed",
            )
        self._submission.admit()
        items: list[TaskSpec | Refusal] = []
        for message in request.specs:
            try:
                items.append(
                    codec.spec_from(message, "")
                    if message.task_id
                    else codec.spec_from(message, new_task_id())
                )
            except Refusal as refusal:
                items.append(refusal)
        specs = [item for item in items if not isinstance(item, Refusal)]
        taken = iter(await self._submission.submit(ns, specs, call, copies=False))
        outcomes = [item if isinstance(item, Refusal) else next(taken) for item in items]
        return pb.SubmitTasksResponse(
            results=submit_results([message.task_id for message in request.specs], outcomes)
        )

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.GetTaskResponse:
        """Return one task."""
        _, task = await self._task(request.task_id)
        snapshot = copy(task)
        await self._mesh.commits.settled()  # before that, a fresh result is nowhere to be read
        message = await self._shown(snapshot, request.view)
        past = await self._mesh.commits.read(self._mesh.store.list_attempts, snapshot.key, MAX_PAST_ATTEMPTS)
        message.past_attempts.extend(codec.ended_attempt_to(a) for a in past if a.number < snapshot.attempt)
        return pb.GetTaskResponse(task=message)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        """List tasks, newest first. What is listed is what is durable."""
        size = validate.page_size(request.page_size)
        states = tuple(sorted({enum(TaskState, s, "states") for s in request.states}))
        task_type = validate.dotted(request.task_type, "task_type") if request.task_type else ""
        agent_id = validate.agent_id(request.agent_id) if request.agent_id else ""
        conditions = repr((request.namespace, states, task_type, agent_id))
        before = 0
        if request.page_token:
            before = page_token.decode_key("tasks", conditions, request.page_token)
        names = tuple(ns.name for ns in namespaces(self._mesh, current_call()))
        await self._mesh.commits.settled()
        condition = TaskFilter(names, states, task_type, agent_id, before, size)
        tasks, rest = await self._mesh.commits.read_list(self._mesh.store.list_tasks, condition)
        page = fitting(codec.task_to(self._live(task)) for task in tasks)
        if len(page) < len(tasks):
            rest = tasks[len(page) - 1].key
        token = page_token.encode("tasks", conditions, str(rest)) if rest else ""
        return pb.ListTasksResponse(tasks=page, next_page_token=token)

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Any) -> pb.CancelTaskResponse:
        """Ask for the end of a task."""
        call = current_call()
        ns = one_namespace(self._mesh, call)
        task_id = validate.task_id(request.task_id)
        grace_ms = DEFAULT_GRACE_MS
        if request.HasField("grace"):
            grace_ms = validate.duration_ms(request.grace, "grace", 0, MAX_GRACE_MS)
        entry = Entry(call, f"task:{task_id}")
        found = await self._mesh.find_task(ns, task_id)
        if found.terminal and task_id not in ns.recent:
            self._mesh.record(ns.name, entry)
            task = found
            await self._mesh.commits.settled()
        else:
            task = await self._mesh.ask(ns, lambda ticket: Cancel(ticket, task_id, grace_ms), entry)
        return pb.CancelTaskResponse(task=codec.task_to(task))

    async def WaitTask(self, request: pb.WaitTaskRequest, context: Any) -> pb.WaitTaskResponse:
        """Wait until a task has ended, or the time is over."""
        wait_ms = DEFAULT_WAIT_MS
        if request.HasField("timeout"):
            wait_ms = validate.duration_ms(request.timeout, "timeout", 0, MAX_WAIT_MS)
        _, task = await self._task(request.task_id)
        watcher = self._mesh.hub.add(task.key, current_call().principal.subject)
        try:
            async with asyncio.timeout(wait_ms / 1000):
                while not task.terminal:
                    event = await watcher.next()
                    if isinstance(event, Task) and event.terminal:
                        task = event
                        break
        except TimeoutError:
            pass
        finally:
            self._mesh.hub.remove(task.key, watcher)
        snapshot = copy(task)
        await self._mesh.commits.settled()  # before that, a fresh result is nowhere to be read
        return pb.WaitTaskResponse(task=await self._shown(snapshot, request.view))

    async def WatchTask(
        self, request: pb.WatchTaskRequest, context: Any
    ) -> AsyncIterator[pb.WatchTaskResponse]:
        """Follow one task until its end. What may be read is decided at each event: the holder may change."""
        principal = current_call().principal
        _, task = await self._task(request.task_id)
        watcher = self._mesh.hub.add(task.key, principal.subject)
        try:
            snapshot = copy(task)
            await self._mesh.commits.settled()
            yield pb.WatchTaskResponse(task=await self._shown(snapshot, pb.TASK_VIEW_FULL))
            shown = snapshot.generation
            over = snapshot.terminal
            while not over:
                event = await watcher.next()
                if isinstance(event, OutputPiece):
                    if may_read_part(principal, "results", event.agent_id):
                        chunk = pb.OutputChunk(attempt=event.attempt, seq=event.seq, chunk=event.chunk)
                        yield pb.WatchTaskResponse(output=chunk)
                elif isinstance(event, ProgressNote):
                    text = event.message if may_read_part(principal, "results", event.agent_id) else ""
                    progress = codec.progress_to(event.attempt, event.seq, event.fraction, text)
                    yield pb.WatchTaskResponse(progress=progress)
                elif event.generation > shown:
                    shown = event.generation
                    over = event.terminal
                    view = pb.TASK_VIEW_FULL if over else pb.TASK_VIEW_BASIC
                    yield pb.WatchTaskResponse(task=await self._shown(event, view))
        finally:
            self._mesh.hub.remove(task.key, watcher)

    async def WatchTasks(  # type: ignore[override]  # parts of messages go out as they were encoded
        self, request: pb.WatchTasksRequest, context: Any
    ) -> AsyncIterator[bytes]:
        """Follow the tasks of a namespace."""
        ns = one_namespace(self._mesh, current_call())
        wanted, after = watches.tasks_wanted(request), watches.position_from(request)
        with self._mesh.watch_tasks(ns, wanted, after, watches.TaskChanges(ns.info.epoch)) as watch:
            while True:
                yield await watch.next()

    async def ExplainTask(self, request: pb.ExplainTaskRequest, context: Any) -> pb.ExplainTaskResponse:
        """Explain why a task is where it is."""
        ns, task = await self._task(request.task_id)
        found = await explain(ns, task, MAX_VERDICTS)
        response = pb.ExplainTaskResponse(
            task=codec.task_to(task),
            summary=found.summary,
            queue_position=found.queue_position,
            verdicts=[
                pb.AgentVerdict(
                    agent_id=v.agent.spec.agent_id,
                    verdict=int(v.verdict),  # type: ignore[arg-type]
                    detail=v.detail,
                    health=int(v.agent.health),  # type: ignore[arg-type]
                )
                for v in found.verdicts
            ],
        )
        await self._mesh.commits.settled()
        return response

    async def GetWorkload(self, request: pb.GetWorkloadRequest, context: Any) -> pb.GetWorkloadResponse:
        """Return what agents hold and have done."""
        call = current_call()
        size = validate.page_size(request.page_size)
        wanted = validate.agent_id(request.agent_id) if request.agent_id else ""
        conditions = repr((request.namespace, wanted))
        after = page_token.decode("workload", conditions, request.page_token) if request.page_token else ""
        chosen = namespaces(self._mesh, call)
        if wanted:
            first = [ns.agents[wanted] for ns in chosen if wanted in ns.agents]
            first = sorted((agent for agent in first if place_of(agent) > after), key=place_of)[: size + 1]
            if not first:
                raise agent_not_found(call.namespace, wanted)
        else:
            # One more than the page tells whether there is another.
            first = await first_agents(chosen, AgentFilter(), after, size + 1)
        page = fitting(_workload(agent) for agent in first[:size])
        response = pb.GetWorkloadResponse(workloads=page)
        if len(page) < len(first):
            last = place_of(first[len(page) - 1])
            response.next_page_token = page_token.encode("workload", conditions, last)
        await self._mesh.commits.settled()
        return response

    async def Work(  # type: ignore[override]  # grpc.aio also takes a coroutine that writes by itself
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any
    ) -> None:
        """Serve the stream of an agent that takes work."""
        await self._streams.serve(request_iterator, context, pb.WorkResponse, takes_work=True)

    async def _task(self, task_id: str) -> tuple[Namespace, Task]:
        ns = one_namespace(self._mesh, current_call())
        return ns, await self._mesh.find_task(ns, validate.task_id(task_id))

    def _live(self, stored: Task) -> Task:
        """Return a stored task as memory knows it, where acceptance and progress are, which are not durable."""
        live = self._mesh.namespaces[stored.namespace].tasks.get(stored.spec.task_id)
        same = live is not None and live.key == stored.key and live.generation == stored.generation
        return live if live is not None and same else stored

    async def _shown(self, task: Task, view: int) -> task_pb2.Task:
        """Return a task's message with what the view and the caller's rights allow."""
        principal = current_call().principal
        reads_results = may_read_part(principal, "results", task.agent_id)
        payload = output = b""
        if view != pb.TASK_VIEW_BASIC:
            if task.payload_bytes and may_read_part(principal, "data", task.agent_id):
                payload = await self._mesh.payload(task.key)
            if task.state is TaskState.SUCCEEDED and reads_results:
                output = await self._mesh.output(task.key)
        message = codec.task_to(task, payload, output)
        if reads_results and task.progress is not None and message.HasField("progress"):
            message.progress.message = task.progress[-1]
        return message


def _workload(agent: Agent) -> pb.AgentWorkload:
    session = agent.session
    held = (
        sorted(session.held.values(), key=lambda t: t.assign_ms)[:MAX_HELD_SHOWN]
        if session is not None
        else []
    )
    return pb.AgentWorkload(
        namespace=agent.namespace,
        agent_id=agent.spec.agent_id,
        health=int(agent.health),  # type: ignore[arg-type]
        slots=session.slots if session is not None else agent.spec.slots,
        free_slots=session.free_slots if session is not None else 0,
        held=fitting((codec.task_to(task) for task in held), MAX_HELD_BYTES),
        succeeded_count=agent.succeeded,
        failed_count=agent.failed,
        lost_count=agent.lost,
    )
