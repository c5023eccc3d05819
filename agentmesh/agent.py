"""`Agent`: a process that takes tasks from the mesh. Ten lines make a worker; see examples/worker.py.

Three kinds of threads, so that none can starve another: the gRPC thread keeps the session alive, async handlers run on
the user's loop (in `run`, the main thread), sync handlers run in up to `slots` threads. Attempts and reports cross
between them once per batch, not one by one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from agentmesh.backoff import SystemClock
from agentmesh.connection import Target, resolve_target
from agentmesh.errors import ConfigurationError, MeshError
from agentmesh.grpc_thread import grpc_loop, on_grpc_thread, submit
from agentmesh.handlers import Handler, HandlerRunner, Uplink
from agentmesh.identity import Identity, state_directory
from agentmesh.link import GrpcLink
from agentmesh.presence import Presence
from agentmesh.session import Attempt, SessionMachine
from agentmesh.stopping import calling_on_signals
from agentmesh.task_specs import duration
from agentmesh.v1.agent_pb2 import AgentSpec, AgentType, Endpoint, LeaseSettings

logger = logging.getLogger("agentmesh")

ANY_TYPE = "*"
MAX_SLOTS = 10_000
#: How much longer than `drain_timeout_s` leaving may take.
_LEAVE_MARGIN_S = 5.0
#: How long a process may take to end after a second signal.
_AT_ONCE_S = 2.0

HandlerT = TypeVar("HandlerT", bound=Handler)


class Agent:
    """One agent of the mesh.

    Every argument that is absent is read from the environment, as `meshctl deploy` prints it: AGENTMESH_AGENT_ID,
    AGENTMESH_NAMESPACE ("default"), AGENTMESH_AGENT_TYPE ("worker"), AGENTMESH_CAPABILITIES (else the task types that
    have a handler), AGENTMESH_SLOTS, AGENTMESH_ADDRESS, AGENTMESH_CA, AGENTMESH_INSECURE, AGENTMESH_TOKEN,
    AGENTMESH_JOIN_TOKEN and AGENTMESH_STATE_DIR. On the mesh's own host a worker needs neither token nor join token.

    `slots` is how many attempts run at once: the number of processors when nobody says, 0 for an agent without handlers.
    `drain_timeout_s` is how long leaving waits for running handlers. Raises ConfigurationError.
    """

    def __init__(
        self,
        agent_id: str | None = None,
        namespace: str | None = None,
        type: str | None = None,
        capabilities: Sequence[str] | None = None,
        slots: int | None = None,
        address: str | None = None,
        *,
        name: str = "",
        labels: Mapping[str, str] | None = None,
        endpoint: Endpoint | None = None,
        token: str | None = None,
        join_token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        insecure: bool | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        lease_ttl_s: float | None = None,
        drain_timeout_s: float = 30.0,
    ) -> None:
        environ = os.environ
        self.agent_id = agent_id or environ.get("AGENTMESH_AGENT_ID") or ""
        if not self.agent_id:
            raise ConfigurationError("the agent has no id: pass agent_id or set AGENTMESH_AGENT_ID")
        self.namespace = namespace or environ.get("AGENTMESH_NAMESPACE") or "default"
        self._type = _agent_type(type or environ.get("AGENTMESH_AGENT_TYPE") or "worker")
        listed = [
            word.strip() for word in environ.get("AGENTMESH_CAPABILITIES", "").split(",") if word.strip()
        ]
        self._capabilities = list(capabilities) if capabilities is not None else listed or None
        told = environ.get("AGENTMESH_SLOTS") if slots is None else None
        if told:
            slots = int(told) if told.isdecimal() else -1
        if slots is not None and not 0 <= slots <= MAX_SLOTS:
            where = "AGENTMESH_SLOTS" if told else "slots"
            raise ConfigurationError(f"{where} {told or slots} is not between 0 and {MAX_SLOTS:,}")
        self._slots = slots
        self._name = name
        self._labels = dict(labels or {})
        self._endpoint = endpoint
        self._token = token or environ.get("AGENTMESH_TOKEN") or None
        self._join_token = join_token or environ.get("AGENTMESH_JOIN_TOKEN") or None
        self._resolve = partial(resolve_target, address, ca, insecure)
        self._target = self._resolve()
        self._state_directory = state_directory(self.namespace, self.agent_id, state_dir)
        self._lease_ttl_s = lease_ttl_s
        self._drain_timeout_s = drain_timeout_s
        self._handlers: dict[str, Handler] = {}
        self._presence: Presence | None = None
        self._identity: Identity | None = None
        self._stop_asked = False

    # ---- what the user calls ---------------------------------------------------------------------------------------

    def task(self, task_type: str = ANY_TYPE) -> Callable[[HandlerT], HandlerT]:
        """Makes the decorated function the handler of a task type; `"*"` takes every type that has no other.

        The function gets a `TaskContext` and returns bytes, str, anything JSON holds, a Payload, or None. Sync
        functions run in a thread, async ones on the event loop.
        """
        if callable(task_type):  # without parentheses it is the handler that comes here
            raise ConfigurationError(
                'a handler names its task type: write  @agent.task("...")  instead of  @agent.task'
            )

        def register(handler: HandlerT) -> HandlerT:
            if task_type in self._handlers:
                raise ConfigurationError(f"task type {task_type!r} has a handler already")
            self._handlers[task_type] = handler
            return handler

        return register

    @property
    def token(self) -> str | None:
        """The agent's current token, for `Mesh(token=lambda: agent.token)`; None before the first."""
        return (self._identity.current or None) if self._identity is not None else self._token

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT: then takes nothing new, finishes what runs, hands the rest back, returns.

        A second signal hands back at once. A handler that will not stop then, or holds up the event loop, does not
        keep the process: it ends with code 0 shortly after the time for leaving is over. Raises MeshError where going
        on is pointless, as when the agent is not allowed in.
        """
        with self._stopping_on_signals():
            try:
                asyncio.run(self.serve())
            except MeshError as error:
                # It says what to do; the way through this package would bury it.
                raise error.with_traceback(None) from None

    async def serve(self) -> None:
        """Serves on the running loop until `stop` is called; cancelling it hands everything back at once."""
        if self._presence is not None:
            raise ConfigurationError("this agent serves already")
        loop = asyncio.get_running_loop()
        uplink = Uplink(self._wake)
        slots = self._effective_slots()
        runner = HandlerRunner(
            self._handler_of, loop, uplink, slots, namespace=self.namespace, agent_id=self.agent_id
        )

        def deliver(start: Sequence[Attempt], stop: Sequence[Attempt]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(runner.start_and_stop, start, stop)

        presence = self._presence = await on_grpc_thread(self._make_presence(uplink, deliver, slots))
        running = submit(presence.run())
        try:
            if self._stop_asked:
                self.stop()
            await asyncio.shield(asyncio.wrap_future(running))
        except asyncio.CancelledError:
            submit(presence.leave(0.0))
            await asyncio.wait([asyncio.wrap_future(running)], timeout=_LEAVE_MARGIN_S)
            raise
        finally:
            running.cancel()
            runner.stop_all()
            self._presence = None

    def stop(self, within_s: float | None = None) -> None:
        """Begins to leave; `serve` and `run` return when it is done. Callable from any thread.

        Running handlers have `within_s` seconds, `drain_timeout_s` when absent. Called again it can only shorten that.
        """
        self._stop_asked = True
        if self._presence is not None:
            submit(self._presence.leave(self._drain_timeout_s if within_s is None else within_s))

    # ---- inside ----------------------------------------------------------------------------------------------------

    async def _make_presence(
        self, uplink: Uplink, deliver: Callable[[Sequence[Attempt], Sequence[Attempt]], None], slots: int
    ) -> Presence:
        clock = SystemClock()
        spec = self._spec(slots)
        self._warn_of_idle_handlers(spec.capabilities)
        machine = SessionMachine(
            self.namespace, self.agent_id, slots, lambda task_type: self._handler_of(task_type) is not None
        )
        identity = self._identity = Identity(
            self.namespace,
            self.agent_id,
            self._type,
            spec.capabilities,
            self._state_directory,
            clock,
            given_token=self._token,
            join_token=self._join_token,
            on_socket=self._target.is_socket,
        )

        def connect(endpoint: str | None) -> GrpcLink:
            target = self._present_target()
            identity.on_socket = target.is_socket
            return GrpcLink(Target(endpoint, target.ca, target.insecure) if endpoint else target)

        rng = random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        return Presence(machine, self._identity, spec, connect, uplink, deliver, clock, rng)

    def _present_target(self) -> Target:
        """Where the mesh is: a worker may be started before meshd, whose socket is looked for until it is there.

        From then on it is the place, or a token would go to whoever listens on a port while meshd is away.
        """
        if not self._target.is_socket:
            self._target = self._resolve()
        return self._target

    def _spec(self, slots: int) -> AgentSpec:
        handled = [task_type for task_type in self._handlers if task_type != ANY_TYPE]
        return AgentSpec(
            agent_id=self.agent_id,
            name=self._name,
            type=self._type,
            capabilities=handled if self._capabilities is None else self._capabilities,
            labels=self._labels,
            endpoint=self._endpoint,
            slots=slots,
            lease=None if self._lease_ttl_s is None else LeaseSettings(ttl=duration(self._lease_ttl_s)),
        )

    def _warn_of_idle_handlers(self, capabilities: Sequence[str]) -> None:
        """A handler added to a worker that was deployed for other task types waits in vain, as a rule."""
        for task_type in sorted(self._handlers.keys() - {ANY_TYPE, *capabilities}):
            logger.warning(
                "agent %s has a handler of %s, which is not among its capabilities (%s): no such task comes "
                "unless it requires something else; deploy it with  --capabilities %s",
                self.agent_id,
                task_type,
                ", ".join(capabilities) or "none",
                ",".join([*capabilities, task_type]),
            )

    def _effective_slots(self) -> int:
        if not self._handlers:
            if self._slots:
                logger.warning(
                    "agent %s has %d slots and no handler, so it takes no tasks: add one by @agent.task",
                    self.agent_id,
                    self._slots,
                )
            return 0
        return self._slots if self._slots is not None else os.cpu_count() or 1

    def _handler_of(self, task_type: str) -> Handler | None:
        return self._handlers.get(task_type) or self._handlers.get(ANY_TYPE)

    def _wake(self) -> None:
        if (presence := self._presence) is not None:
            grpc_loop().call_soon_threadsafe(presence.flush_uplink)

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        ends: list[threading.Timer] = []

        def stop() -> None:
            at_once = self._stop_asked
            self.stop(within_s=0.0 if at_once else None)
            within_s = _AT_ONCE_S if at_once else self._drain_timeout_s + _LEAVE_MARGIN_S
            ends.append(threading.Timer(within_s, _end_process))
            ends[-1].daemon = True
            ends[-1].start()

        with calling_on_signals(stop):
            try:
                yield
            finally:
                for timer in ends:
                    timer.cancel()


def _end_process() -> None:
    """Ends the process although handlers go on: what they were given is with other agents by now."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _agent_type(word: str) -> AgentType.ValueType:
    known = [name.removeprefix("AGENT_TYPE_").lower() for name in AgentType.keys()[1:]]
    if word.lower() not in known:
        raise ConfigurationError(f"agent type {word!r} is none of {', '.join(known)}")
    return AgentType.Value(f"AGENT_TYPE_{word.upper()}")
