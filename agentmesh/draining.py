"""The calls of `Mesh` about drains: agents that get no new work, and waiting until they hold none."""

from __future__ import annotations

from abc import ABC, abstractmethod

from agentmesh.calls import FOREVER_S, TRY_TIMEOUT_S, WAIT_SLICE_S, Caller
from agentmesh.errors import WaitTimeout
from agentmesh.grpc_thread import on_grpc_thread
from agentmesh.task_specs import duration
from agentmesh.v1 import registry_service_pb2 as pb
from agentmesh.v1 import registry_service_pb2_grpc

_registry = registry_service_pb2_grpc.RegistryServiceStub


class DrainCalls(ABC):
    """Part of `Mesh`."""

    _caller: Caller

    @abstractmethod
    def _in(self, namespace: str | None) -> str:
        """The namespace of a call: the one given, else the client's own."""

    async def drain_agents(
        self,
        selector: pb.AgentSelector,
        *,
        reason: str = "",
        hand_over: bool = False,
        hand_over_grace_s: float | None = None,
        namespace: str | None = None,
    ) -> pb.DrainAgentsResponse:
        """Gives the selected agents no new work, now and whenever they start, until `undrain_agents`.

        `hand_over` also takes from them what they run, after a grace (10 s), at no cost to the tasks' retries.
        """
        request = pb.DrainAgentsRequest(
            namespace=self._in(namespace),
            selector=selector,
            reason=reason,
            hand_over=hand_over,
            hand_over_grace=duration(hand_over_grace_s),
        )
        return await on_grpc_thread(self._caller.call(lambda c: _registry(c).DrainAgents, request))

    async def undrain_agents(
        self, selector: pb.AgentSelector, *, namespace: str | None = None
    ) -> pb.DrainAgentsResponse:
        """Lifts the drain with exactly this selector; without one nothing changes."""
        request = pb.DrainAgentsRequest(namespace=self._in(namespace), selector=selector, lift=True)
        return await on_grpc_thread(self._caller.call(lambda c: _registry(c).DrainAgents, request))

    async def list_drains(self, *, namespace: str | None = None) -> list[pb.ListedDrain]:
        """Returns the drains in force and how far they are."""
        drains: list[pb.ListedDrain] = []
        request = pb.ListDrainsRequest(namespace=self._in(namespace))
        while True:
            page = await on_grpc_thread(self._caller.call(lambda c: _registry(c).ListDrains, request))
            drains += page.drains
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return drains

    async def wait_agents_idle(
        self,
        selector: pb.AgentSelector,
        *,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> pb.SelectedAgents:
        """Waits until the selected agents hold no attempt. Raises WaitTimeout."""
        deadline_s = self._caller.deadline_s(FOREVER_S if timeout_s is None else timeout_s)
        while True:
            slice_s = min(WAIT_SLICE_S, max(0.0, deadline_s - self._caller.deadline_s(0.0)))
            request = pb.WaitAgentsIdleRequest(
                namespace=self._in(namespace), selector=selector, timeout=duration(slice_s)
            )
            answer = await on_grpc_thread(
                self._caller.call(
                    lambda c: _registry(c).WaitAgentsIdle,
                    request,
                    deadline_s=deadline_s,
                    timeout_s=slice_s + TRY_TIMEOUT_S,
                    held=True,
                )
            )
            if not answer.agents.held_attempts:
                return answer.agents
            if self._caller.deadline_s(0.0) >= deadline_s:
                raise WaitTimeout(
                    f"the agents still hold {answer.agents.held_attempts} attempts after {timeout_s:g} s",
                    reason="WAIT_TIMEOUT",
                )
