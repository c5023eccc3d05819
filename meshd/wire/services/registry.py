"""RegistryService: who the agents are and how they are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from hashlib import sha256
from secrets import token_hex
from typing import Any

from agentmesh.v1 import registry_service_pb2 as pb
from agentmesh.v1 import registry_service_pb2_grpc as pb_grpc
from meshd.domain import census
from meshd.domain import commands as c
from meshd.domain.access import ANY, SYSTEM_NAMESPACE, Call
from meshd.domain.discovery import AgentFilter, place_of
from meshd.domain.drains import Drain, drain_id
from meshd.domain.errors import Reason, Refusal
from meshd.domain.limits import DEFAULT_GRACE_MS, MAX_GRACE_MS
from meshd.domain.state import Namespace
from meshd.domain.values import AgentType
from meshd.engine.mesh import Entry, Mesh
from meshd.engine.selection import first_agents, other_drains, progress_of, select, until_idle
from meshd.wire import page_token, validate
from meshd.wire.codec import agents as codec
from meshd.wire.codec import drains as drain_codec
from meshd.wire.codec import watches
from meshd.wire.codec.frames import limits
from meshd.wire.codec.values import duration, timestamp
from meshd.wire.context import current_call
from meshd.wire.fitting import fitting
from meshd.wire.server import keepalive_timeout_ms
from meshd.wire.services.sessions import SessionStreams, own_identity

SESSION_KEY_BYTES = 16
MAX_REASON_BYTES = 256
MAX_DRAINS_PAGE = 100
DEFAULT_WAIT_MS = 30_000
MAX_WAIT_MS = 60_000
SWEEP_SLACK_MS = 500
"""What the sweep and the dispatch add to a bound."""


class RegistryService(pb_grpc.RegistryServiceServicer):
    """Knows agents and their health."""

    def __init__(self, mesh: Mesh, streams: SessionStreams, version: str, keepalive_ms: int) -> None:
        self._mesh = mesh
        self._streams = streams
        self._version = version
        self._keepalive_ms = keepalive_ms
        self._start_ms = time.time_ns() // 1_000_000

    async def RegisterAgent(self, request: pb.RegisterAgentRequest, context: Any) -> pb.RegisterAgentResponse:
        """Start a session."""
        call = current_call()
        ns = namespace_of_agents(self._mesh, call)
        spec = codec.spec_from(request.spec)
        own_identity(call, spec.agent_id)
        _within_grant(call, spec.type, spec.capabilities)
        if len(request.session_key) != SESSION_KEY_BYTES:
            raise validate.invalid("session_key", f"must be {SESSION_KEY_BYTES} random bytes")
        key_hash = sha256(request.session_key).digest()
        session_id = token_hex(16)
        resume_hash = sha256(_resume_token(session_id, request.session_key)).digest()
        registered: c.Registered = await self._mesh.ask(
            ns,
            lambda ticket: c.Register(ticket, spec, session_id, key_hash, resume_hash),
            Entry(call, f"agent:{spec.agent_id}"),
        )
        grace_ms = spec.disconnected_grace_ms or ns.rules.disconnected_grace_ms
        return pb.RegisterAgentResponse(
            session_id=registered.session.session_id,
            # Of the session that counts: a repetition of the call may have come while the first was under way.
            resume_token=_resume_token(registered.session.session_id, request.session_key),
            limits=limits(ns.rules, registered.session.told, grace_ms),
            agent=codec.agent_to(registered.agent, ns.info.epoch),
        )

    async def DeregisterAgent(
        self, request: pb.DeregisterAgentRequest, context: Any
    ) -> pb.DeregisterAgentResponse:
        """End the caller's session in good order."""
        call = current_call()
        ns = one_namespace(self._mesh, call)
        agent_id = validate.agent_id(request.agent_id)
        own_identity(call, agent_id)
        await self._mesh.ask(
            ns,
            lambda ticket: c.Deregister(ticket, agent_id, request.session_id),
            Entry(call, f"agent:{agent_id}"),
        )
        return pb.DeregisterAgentResponse()

    async def DeclareAgent(self, request: pb.DeclareAgentRequest, context: Any) -> pb.DeclareAgentResponse:
        """Make an agent known before its process runs."""
        call = current_call()
        ns = namespace_of_agents(self._mesh, call)
        spec = codec.spec_from(request.spec)
        declared: c.Declared = await self._mesh.ask(
            ns,
            lambda ticket: c.Declare(ticket, spec),
            Entry(call, f"agent:{spec.agent_id}"),
        )
        agent = codec.agent_to(declared.agent, ns.info.epoch)
        return pb.DeclareAgentResponse(agent=agent, created=declared.created)

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> pb.GetAgentResponse:
        """Return one agent."""
        ns = one_namespace(self._mesh, current_call())
        agent_id = validate.agent_id(request.agent_id)
        agent = ns.agents.get(agent_id)
        if agent is None:
            raise agent_not_found(ns.name, agent_id)
        response = pb.GetAgentResponse(agent=codec.agent_to(agent, ns.info.epoch))
        await self._mesh.commits.settled()
        return response

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        """Find agents."""
        size = validate.page_size(request.page_size)
        wanted = codec.filter_from(request)
        conditions = repr((request.namespace, _in_order(wanted)))
        after = page_token.decode("agents", conditions, request.page_token) if request.page_token else ""
        # One more than the page tells whether there is another.
        first = await first_agents(namespaces(self._mesh, current_call()), wanted, after, size + 1)
        epochs = {name: ns.info.epoch for name, ns in self._mesh.namespaces.items()}
        page = fitting(codec.agent_to(agent, epochs[agent.namespace]) for agent in first[:size])
        response = pb.ListAgentsResponse(agents=page)
        if len(page) < len(first):
            response.next_page_token = page_token.encode("agents", conditions, place_of(first[len(page) - 1]))
        await self._mesh.commits.settled()
        return response

    async def WatchAgents(  # type: ignore[override]  # parts of messages go out as they were encoded
        self, request: pb.WatchAgentsRequest, context: Any
    ) -> AsyncIterator[bytes]:
        """Follow agents."""
        ns = one_namespace(self._mesh, current_call())
        wanted, after = codec.conditions_from(request), watches.position_from(request)
        with self._mesh.watch_agents(ns, wanted, after, watches.AgentChanges(ns.info.epoch)) as watch:
            while True:
                yield await watch.next()

    async def Heartbeat(  # type: ignore[override]  # grpc.aio also takes a coroutine that writes by itself
        self, request_iterator: AsyncIterator[pb.HeartbeatRequest], context: Any
    ) -> None:
        """Keep a session alive for agents that take no work."""
        await self._streams.serve(request_iterator, context, pb.HeartbeatResponse, takes_work=False)

    async def DrainAgents(self, request: pb.DrainAgentsRequest, context: Any) -> pb.DrainAgentsResponse:
        """Start or lift a drain."""
        call = current_call()
        ns = one_namespace(self._mesh, call)
        selector = drain_codec.selector_from(request.selector)
        key = drain_id(selector)
        grace_ms = DEFAULT_GRACE_MS
        if request.HasField("hand_over_grace"):
            grace_ms = validate.duration_ms(request.hand_over_grace, "hand_over_grace", 0, MAX_GRACE_MS)
        if request.lift and request.hand_over:
            raise validate.invalid("hand_over", "goes with the start of a drain, not with lift")
        reason = validate.text(request.reason, MAX_REASON_BYTES, "reason")
        creator = call.principal.subject
        drain = Drain(ns.name, key, selector, reason, creator, time.time_ns() // 1_000_000)

        def command(ticket: object) -> c.Command:
            if request.lift:
                return c.LiftDrain(ticket, key)
            return c.StartDrain(ticket, drain, request.hand_over, grace_ms)

        entry = Entry(call, f"drain:{key}{' lifted' if request.lift else ''}")
        drained: c.Drained = await self._mesh.ask(ns, command, entry)
        response = pb.DrainAgentsResponse(
            changed=drained.changed,
            other_drain_ids=await other_drains(ns, selector),
            agents=drain_codec.selection_to(select(ns, selector)),
        )
        if drained.drain is not None:
            response.drain.CopyFrom(drain_codec.drain_to(drained.drain))
        await self._mesh.commits.settled()
        return response

    async def ListDrains(self, request: pb.ListDrainsRequest, context: Any) -> pb.ListDrainsResponse:
        """List the drains in force."""
        size = min(validate.page_size(request.page_size), MAX_DRAINS_PAGE)
        after = (
            page_token.decode("drains", request.namespace, request.page_token) if request.page_token else ""
        )
        found = [
            (f"{ns.name}/{drain.drain_id}", ns, drain)
            for ns in namespaces(self._mesh, current_call())
            for drain in ns.drains.values()
        ]
        found = sorted((entry for entry in found if entry[0] > after), key=lambda entry: entry[0])
        more = page_token.encode("drains", request.namespace, found[size - 1][0]) if len(found) > size else ""
        response = pb.ListDrainsResponse(next_page_token=more)
        for _, ns, drain in found[:size]:
            selection = await progress_of(ns, drain)
            response.drains.add(
                drain=drain_codec.drain_to(drain),
                agent_count=selection.agent_count,
                held_attempts=selection.held_attempts,
            )
        await self._mesh.commits.settled()
        return response

    async def WaitAgentsIdle(
        self, request: pb.WaitAgentsIdleRequest, context: Any
    ) -> pb.WaitAgentsIdleResponse:
        """Wait until the selected agents hold nothing, or the time is over."""
        ns = one_namespace(self._mesh, current_call())
        selector = drain_codec.selector_from(request.selector)
        wait_ms = DEFAULT_WAIT_MS
        if request.HasField("timeout"):
            wait_ms = validate.duration_ms(request.timeout, "timeout", 0, MAX_WAIT_MS)
        selection = await until_idle(ns, selector, wait_ms / 1000)
        response = pb.WaitAgentsIdleResponse(agents=drain_codec.selection_to(selection))
        await self._mesh.commits.settled()
        return response

    async def GetMeshStatus(self, request: pb.GetMeshStatusRequest, context: Any) -> pb.GetMeshStatusResponse:
        """Summarise the mesh."""
        storage = await self._mesh.commits.read(self._mesh.store.measure)
        rules, fleet = self._mesh.rules, self._mesh.fleet
        now_mono = time.monotonic()
        hold_ms = max(0, round((fleet.hold_until_mono - now_mono) * 1000))
        response = pb.GetMeshStatusResponse(
            version=self._version,
            start_time=timestamp(self._start_ms),
            bounds=pb.FailureBounds(
                killed=duration(rules.lost_after_ms + SWEEP_SLACK_MS // 2),
                # Time to the ping, its timeout, then the grace of a broken connection.
                unreachable=duration(
                    self._keepalive_ms
                    + keepalive_timeout_ms(self._keepalive_ms)
                    + rules.lost_after_ms
                    + SWEEP_SLACK_MS
                ),
                hung=duration(fleet.longest_ttl_ms(self._mesh.sessions()) + 3 * SWEEP_SLACK_MS),
            ),
            namespaces=[_status(ns) for ns in namespaces(self._mesh, current_call())],
            hold_remaining=duration(hold_ms),
            server_time=timestamp(time.time_ns() // 1_000_000),
            keepalive=duration(self._keepalive_ms),
            storage=pb.StorageStatus(
                engine=storage.engine,
                free_bytes=storage.free_bytes,
                min_free_bytes=storage.min_free_bytes,
            ),
        )
        await self._mesh.commits.settled()
        return response


def _resume_token(session_id: str, session_key: bytes) -> bytes:
    """Return a session's token, derived so that a repetition of the call gets the same though only its hash is kept."""
    return sha256(b"resume\0" + session_id.encode() + b"\0" + session_key).digest()


def one_namespace(mesh: Mesh, call: Call) -> Namespace:
    """Return the namespace a call concerns. Raises Refusal when an operator named none."""
    if not call.namespace:
        message = "name the namespace: an operator has none of its own; `meshctl namespace list` shows them"
        raise Refusal(Reason.FIELD_REQUIRED, message, field="namespace")
    validate.namespace_name(call.namespace)
    return mesh.namespace(call.namespace)


def namespace_of_agents(mesh: Mesh, call: Call) -> Namespace:
    """Return the namespace a call concerns, which must be one for agents and tasks. Raises Refusal."""
    if call.namespace == SYSTEM_NAMESPACE:
        raise validate.invalid(
            "namespace", f"is {SYSTEM_NAMESPACE}, the mesh's own, where no agents are; name another"
        )
    return one_namespace(mesh, call)


def namespaces(mesh: Mesh, call: Call) -> list[Namespace]:
    """Return the namespaces a list covers: the one it names, or every one the caller may read but the mesh's own."""
    if call.namespace:
        return [one_namespace(mesh, call)]
    names = sorted(n for n in mesh.namespaces if n != SYSTEM_NAMESPACE and call.principal.may_see(n))
    return [mesh.namespaces[n] for n in names]


def agent_not_found(namespace: str, agent_id: str) -> Refusal:
    """Return the refusal for an unknown agent; without a namespace it was looked for in all."""
    if not namespace:
        message = f"no agent {agent_id} in any namespace you may read; `meshctl discover` shows the agents"
        return Refusal(Reason.AGENT_NOT_FOUND, message)
    message = f"no agent {agent_id} in namespace {namespace}; `meshctl discover --namespace {namespace}` shows its agents"
    return Refusal(Reason.AGENT_NOT_FOUND, message)


def _in_order(wanted: AgentFilter) -> tuple[object, ...]:
    """Return conditions in a form that is the same in every process: page tokens outlive a restart."""
    return tuple(sorted(part) if isinstance(part, frozenset) else part for part in wanted)


def _within_grant(call: Call, kind: AgentType, capabilities: frozenset[str]) -> None:
    principal = call.principal
    if principal.agent_type is not kind:
        own = principal.agent_type.name.lower() if principal.agent_type is not None else "none"
        message = f"the token is for an agent of type {own}, not {kind.name.lower()}"
        raise Refusal(Reason.IDENTITY_MISMATCH, message, field="spec.type")
    if ANY not in principal.capabilities and not capabilities <= principal.capabilities:
        beyond = ", ".join(sorted(capabilities - principal.capabilities))
        message = (
            f"the token does not allow the capabilities {beyond}; declare the agent with them and join again"
        )
        raise Refusal(Reason.GRANT_EXCEEDS_CALLER, message, field="spec.capabilities")


def _status(ns: Namespace) -> pb.NamespaceStatus:
    health = Counter(agent.health for agent in ns.agents.values())
    states = census.open_tasks(ns)
    message = pb.NamespaceStatus(
        namespace=ns.name,
        epoch=ns.info.epoch,
        agents=[
            pb.HealthCount(health=int(h), count=n)  # type: ignore[arg-type]
            for h, n in sorted(health.items())
        ],
        tasks=[
            pb.TaskCount(state=int(s), count=n)  # type: ignore[arg-type]
            for s, n in states.items()
            if n
        ],
        ended_count=ns.ended_count,
        free_slots=sum(s.free_slots for s in ns.sessions.values() if s.bucket >= 0),
    )
    oldest_ms = census.oldest_queued_ms(ns)
    if oldest_ms is not None:
        message.oldest_queued_age.CopyFrom(duration(max(0, time.time_ns() // 1_000_000 - oldest_ms)))
    for pool in census.without_takers(ns):
        head = pool.queue.head()
        if head is not None:
            message.unplaceable_count += pool.queue.size
            message.unplaceable_task_id = message.unplaceable_task_id or head.spec.task_id
    return message
