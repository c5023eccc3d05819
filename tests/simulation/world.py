"""One world: daemon, disk, agents, callers and the network between them, driven by a plan."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from random import Random
from typing import Any

import meshd.domain.handlers.submit as submit_module
import meshd.domain.state as state_module
from meshd.domain import commands as c
from meshd.domain.errors import Refusal
from meshd.domain.values import AgentSpec, AgentType, Requirements, Session, Task, TaskSpec
from tests.simulation.agents import Agent
from tests.simulation.daemon import KILL_POINTS, Daemon
from tests.simulation.disk import Disk
from tests.simulation.history import plain
from tests.simulation.network import CALL_TIMEOUT_S, Call
from tests.simulation.oracle import Oracle
from tests.simulation.plan import Event, Plan, TaskPlan
from tests.simulation.timeline import Timeline, Violation

START = 100.0
SETTLE_S = 4.0
PATIENCE_S = 200.0
"""After the faults have stopped every task ends within this time."""


class World:
    """Everything that happens under one plan. Deterministic."""

    def __init__(self, plan: Plan, history: list[str] | None = None) -> None:
        settings = plan.settings
        self.plan = plan
        self.rules = settings.rules
        self.time = Timeline()
        self.rng = Random(plan.seed + 1)
        self.disk = Disk(list(settings.namespaces))
        self.history = history
        self.loss = settings.loss
        self.wall_shift_ms = 1_700_000_000_000
        self.jumped = False
        self.forgetful = settings.recent_tasks < 1_000
        self.daemon_freezes: list[tuple[float, float]] = []
        """(end, length) of every pause of the daemon."""
        self.kill_at: str | None = None
        self.daemon: Daemon | None = None
        self.agents: list[Agent] = []
        self.specs: dict[tuple[str, str], TaskPlan] = {}
        self._latency_s = settings.latency_s
        self._disk_stall_until = 0.0
        self._disk_fails = False
        self._numbers = 0
        self._restart_s = 0.5
        self._open_calls = 0
        self._over = False
        self.oracle = Oracle(self)
        for module in (state_module, submit_module):
            vars(module)["RECENT_TASKS"] = settings.recent_tasks

    # ---- running

    def run(self) -> None:
        """Live through the plan and what follows from it. Raises Violation."""
        self._boot()
        for each in self.plan.settings.agents:
            self.spawn(
                each.namespace,
                each.agent_id,
                slots=each.slots,
                can=each.can,
                minimal=each.minimal,
                lease_ttl_ms=each.lease_ttl_ms,
            )
        for event in self.plan.events:
            self.time.at(START + event.at, self._happen, event)
        calm = START + self.plan.settings.seconds
        self.time.at(calm, self._calm)
        while self.time.now < calm or not self._ended():
            self.time.step()
            if self.time.now > calm + PATIENCE_S:
                daemon = self.daemon
                left = {} if daemon is None else {n.name: sorted(n.tasks) for n in daemon.namespaces.values()}
                raise Violation(f"after {PATIENCE_S} s without faults these have not ended: {left}")
        end = self.time.now + SETTLE_S
        while self.time.now < end:
            self.time.step()
        assert self.daemon is not None
        self.oracle.finished(self.daemon)

    def _ended(self) -> bool:
        if self._open_calls or self.daemon is None:
            return False
        return not any(ns.tasks for ns in self.daemon.namespaces.values()) and not self.daemon.barrier.pending

    def _calm(self) -> None:
        """No faults from here on; everybody who is gone comes back."""
        self._over = True
        self.loss = 0.0
        self._latency_s = min(self._latency_s, 0.005)
        self.kill_at = None
        self._disk_fails = False
        self._disk_stall_until = 0.0
        self.note("---- no more faults")
        for namespace in self.plan.settings.namespaces:
            can = frozenset(("work", "other", "gpu"))
            self.spawn(namespace, "finisher", slots=3, can=can, minimal=False, lease_ttl_ms=0)

    def note(self, text: str, *arguments: Any) -> None:
        """Add a line to the history, when one is kept."""
        if self.history is not None:
            self.history.append(f"{self.time.now - START:8.3f}  {text % tuple(map(plain, arguments))}")

    def number(self) -> int:
        """Return a number that was not used before."""
        self._numbers += 1
        return self._numbers

    # ---- the daemon's host

    def _boot(self) -> None:
        self.note("meshd starts")
        self.daemon = Daemon(self)

    def kill(self, why: str) -> None:
        """Kill the daemon now; it comes back after a while."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            self.note("meshd is killed: %s", why)
            if self.time.now < daemon.frozen_until:
                self.daemon_freezes.pop()
            daemon.die()
            self.time.after(self._restart_s, self._boot)

    def reached(self, point: str) -> bool:
        """Kill the daemon if that is planned at this point; return whether it is dead."""
        if self.kill_at != point:
            return False
        self.kill_at = None
        self.kill(f"at {point}")
        return True

    def disk_delay(self) -> float:
        """Return how long the next commit takes."""
        own = self.plan.settings.disk_s * (0.5 + self.rng.random())
        return own + max(0.0, self._disk_stall_until - self.time.now)

    def take_disk_failure(self) -> bool:
        """Return whether this commit fails."""
        fails, self._disk_fails = self._disk_fails, False
        return fails

    # ---- the network

    def latency(self) -> float:
        """Return how long the next message is under way."""
        return self._latency_s * (0.5 + self.rng.random())

    def reachable(self, agent: Agent) -> Daemon | None:
        """Return the daemon if the agent can connect to it."""
        now = self.time.now
        blocked = now < agent.up_blocked_until or now < agent.down_blocked_until
        return None if blocked else self.daemon

    def call(
        self,
        ask: Callable[[Daemon, Call], None],
        on_reply: Callable[[Any], None],
        on_lost: Callable[[], None],
        agent: Agent | None = None,
    ) -> None:
        """Make a unary call."""
        self.time.after(self.latency(), self._request, ask, on_reply, on_lost, agent)

    def _request(
        self,
        ask: Callable[[Daemon, Call], None],
        on_reply: Callable[[Any], None],
        on_lost: Callable[[], None],
        agent: Agent | None,
    ) -> None:
        daemon = self.daemon if agent is None else self.reachable(agent)
        if daemon is None or self.rng.random() < self.loss:
            self.time.after(self.rng.random(), on_lost)
            return
        ticket = Call(self, daemon, on_reply, on_lost)
        self.time.after(CALL_TIMEOUT_S, ticket.lose)
        daemon.later(self.time.now, ask, daemon, ticket)

    # ---- agents

    def spawn(
        self,
        namespace: str,
        agent_id: str,
        *,
        slots: int,
        can: frozenset[str],
        minimal: bool,
        lease_ttl_ms: int,
    ) -> None:
        """Start a process of an agent."""
        agent = Agent(
            self, namespace, agent_id, slots=slots, can=can, minimal=minimal, lease_ttl_ms=lease_ttl_ms
        )
        self.agents.append(agent)
        self.note("%s starts: %d slots, can %s%s", agent, slots, sorted(can), " (minimal)" if minimal else "")
        agent.start()

    def respawn(self, agent: Agent) -> None:
        """Start a new process of the same agent."""
        slots, can, minimal, lease_ttl_ms = agent.spec_fields
        self.spawn(
            agent.namespace, agent.agent_id, slots=slots, can=can, minimal=minimal, lease_ttl_ms=lease_ttl_ms
        )

    def agent_of(self, session: Session) -> Agent | None:
        """Return the live process behind a session."""
        return next(
            (a for a in self.agents if a.link is not None and a.link is session.stream and not a.gone), None
        )

    def handler_time(self, namespace: str, task_id: str) -> tuple[float, bool]:
        """Return how long a handler runs, and whether it hangs."""
        spec = self.specs[namespace, task_id]
        hangs = spec.execution_timeout_ms > 0 and self.rng.random() < 0.05
        roll = self.rng.random()
        return (roll * 0.6 if self.rng.random() < 0.7 else roll * 3.0), hangs

    # ---- callers

    def submit(self, namespace: str, tasks: list[TaskPlan]) -> None:
        """Submit tasks, again and again until there is a reply."""
        self._open_calls += 1
        for task in tasks:
            self.specs.setdefault((namespace, task.task_id), task)
        ids = [task.task_id for task in tasks]

        def ask(daemon: Daemon, ticket: Call) -> None:
            seen = daemon.namespaces[namespace].ended_count
            daemon.later(self.time.now + self.rng.random() * 0.002, look, daemon, ticket, seen)

        def look(daemon: Daemon, ticket: Call, seen: int) -> None:
            known = self.disk.known(namespace, ids)
            specs = [_spec(task) for task in tasks]
            command = c.Submit(ticket, specs, "agent:x/y", known, seen, len(tasks) == 1)
            daemon.later(self.time.now + self.rng.random() * 0.002, daemon.post, namespace, command)

        def answered(results: list[c.Submitted | Refusal] | c.LookAgain) -> None:
            if isinstance(results, c.LookAgain):
                self.call(ask, answered, lost)
                return
            self._open_calls -= 1
            for task, result in zip(tasks, results, strict=True):
                self.oracle.submitted(namespace, task.task_id, task.digest, result)

        def lost() -> None:
            self.time.after(self.rng.random(), self.call, ask, answered, lost)

        self.call(ask, answered, lost)

    def cancel(self, namespace: str, task_id: str, grace_ms: int) -> None:
        """Ask for a task's end once."""

        def ask(daemon: Daemon, ticket: Call) -> None:
            daemon.post(namespace, c.Cancel(ticket, task_id, grace_ms))

        known = (namespace, task_id) in self.oracle.accepted

        def answered(reply: Task | Refusal) -> None:
            self.oracle.cancel_answered(namespace, task_id, reply, known=known)

        self.call(ask, answered, lambda: None)

    def _read(self, namespace: str, task_id: str) -> None:
        def ask(daemon: Daemon, ticket: Call) -> None:
            ns = daemon.namespaces[namespace]
            task = ns.tasks.get(task_id) or ns.recent.get(task_id)
            if task is not None:
                reply = c.Submitted(task_id, True, copy(task))
                daemon.barrier.collecting.replies.append((ticket, reply))
                daemon._flush()

        def answered(reply: c.Submitted) -> None:
            if reply.task is not None:
                self.oracle.read(reply.task)

        self.call(ask, answered, lambda: None)

    # ---- events

    def _happen(self, event: Event) -> None:
        self.note("**** %s", event)
        namespaces = self.plan.settings.namespaces
        namespace = namespaces[event.subject % len(namespaces)]
        kind = event.kind
        if kind in ("submit", "resubmit"):
            self.submit(self._namespace_of(event.detail[0].task_id, namespace), event.detail)
        elif kind == "cancel":
            of_task = self._namespace_of(event.detail, namespace)
            self.cancel(of_task, event.detail, int(event.amount * 1000))
        elif kind == "read":
            self._read(self._namespace_of(event.detail, namespace), event.detail)
        elif kind in AGENT_FAULTS:
            alive = [agent for agent in self.agents if not agent.gone]
            if alive:
                AGENT_FAULTS[kind](self, alive[event.subject % len(alive)], event)
        else:
            WORLD_FAULTS[kind](self, event)

    def _namespace_of(self, task_id: str, otherwise: str) -> str:
        return next((ns for ns, name in self.specs if name == task_id), otherwise)


def _spec(task: TaskPlan) -> TaskSpec:
    requirements = task.requirements
    return TaskSpec(
        task_id=task.task_id,
        task_type=task.task_type,
        payload=b"x",
        digest=task.digest,
        requirements=requirements or Requirements(frozenset((task.task_type,))),
        priority=task.priority,
        strategy=task.strategy,
        timeout_ms=task.timeout_ms,
        queue_timeout_ms=task.queue_timeout_ms,
        execution_timeout_ms=task.execution_timeout_ms,
        retry=task.retry,
        max_losses=task.max_losses,
        default_requirements=requirements is None,
    )


# ---- faults of agents


def _break(world: World, agent: Agent, event: Event) -> None:
    if agent.link is not None:
        agent.link.cut(event.amount * 0.05, (event.detail % 7) * event.amount * 0.3)


def _block(world: World, agent: Agent, event: Event) -> None:
    """The agent's network is away, in one direction or both; keepalive finds it, or does not."""
    until = world.time.now + event.amount**2 * 14.0
    ways = event.detail % 4
    if ways != 1:
        agent.up_blocked_until = until
    if ways != 2:
        agent.down_blocked_until = until
    if event.detail % 3 and agent.link is not None:
        agent.link.end_later(world.time.now + 1.7 + event.amount * 0.5)


def _freeze_agent(world: World, agent: Agent, event: Event) -> None:
    seconds = event.amount**2 * 14.0
    agent.frozen_until = world.time.now + seconds
    if seconds > 1.7 and event.detail % 3 and agent.link is not None:
        agent.link.cut(1.7 + event.amount * 0.3, seconds)


def _die(world: World, agent: Agent, event: Event) -> None:
    world.note("%s dies", agent)
    agent.die()
    if event.detail % 4:
        world.time.after(event.amount * 6.0, world.respawn, agent)


def _twin(world: World, agent: Agent, event: Event) -> None:
    world.respawn(agent)


def _leave(world: World, agent: Agent, event: Event) -> None:
    agent.leave()
    world.time.after(event.amount * 3.0, world.respawn, agent)


def _drain(world: World, agent: Agent, event: Event) -> None:
    agent.drain(event.amount * 5.0)


def _heartbeat_only(world: World, agent: Agent, event: Event) -> None:
    """The agent comes back on a Heartbeat stream for a while."""
    agent.takes_work = False

    def back() -> None:
        agent.takes_work = True
        if agent.link is not None:
            agent.link.cut(0.0, 0.0)

    world.time.after(event.amount * 5.0, back)
    if agent.link is not None:
        agent.link.cut(0.0, 0.0)


def _revoke(world: World, agent: Agent, event: Event) -> None:
    if world.daemon is not None:
        world.daemon.post(agent.namespace, c.RevokeAgent(None, agent.agent_id))


def _deregister(world: World, agent: Agent, event: Event) -> None:
    if world.daemon is not None:
        command = c.Deregister(None, agent.agent_id, agent.machine.session_id)
        world.daemon.post(agent.namespace, command)


def _declare(world: World, agent: Agent, event: Event) -> None:
    if world.daemon is not None:
        agent_id = agent.agent_id if event.detail % 2 else f"declared-{event.detail}"
        spec = AgentSpec(agent_id, AgentType.WORKER, capabilities=frozenset(("gpu",)), slots=2)
        world.daemon.post(agent.namespace, c.Declare(None, spec))


AGENT_FAULTS: dict[str, Callable[[World, Agent, Event], None]] = {
    "break": _break,
    "block": _block,
    "freeze_agent": _freeze_agent,
    "die": _die,
    "twin": _twin,
    "leave": _leave,
    "drain": _drain,
    "heartbeat_only": _heartbeat_only,
    "revoke": _revoke,
    "declare": _declare,
    "deregister": _deregister,
}


# ---- faults of the daemon's host and of many at once


def _kill(world: World, event: Event) -> None:
    world._restart_s = 0.1 + event.amount**2 * (8.0 if event.detail % 5 == 0 else 2.0)
    world.kill("at an instant")


def _kill_at(world: World, event: Event) -> None:
    world._restart_s = 0.1 + event.amount
    world.kill_at = KILL_POINTS[event.detail % len(KILL_POINTS)]


def _freeze_daemon(world: World, event: Event) -> None:
    daemon = world.daemon
    now = world.time.now
    if daemon is None or daemon.frozen_until > now:
        return
    seconds = event.amount**2 * 9.0
    daemon.frozen_until = now + seconds
    world.daemon_freezes.append((now + seconds, seconds))
    if seconds > 2.0:
        for link in list(daemon.links):
            if world.rng.random() < 0.4:
                world.time.after(2.0 + world.rng.random(), link.agent.stream_over, link)


def _disk_stall(world: World, event: Event) -> None:
    world._disk_stall_until = world.time.now + event.amount * 1.5


def _disk_fail(world: World, event: Event) -> None:
    world._restart_s = 0.2 + event.amount
    world._disk_fails = True


def _jump(world: World, event: Event) -> None:
    world.jumped = True
    world.wall_shift_ms += event.detail * 7_200 - 3_600_000


def _lag(world: World, event: Event) -> None:
    usual = world.plan.settings.latency_s
    world._latency_s = 0.1 + event.amount * 0.5
    world.time.after(event.amount * 3.0, setattr, world, "_latency_s", usual)


def _together(world: World, event: Event) -> None:
    """Half of the fleet, or all of it, has the same fault at once."""
    fault = (_break, _block, _freeze_agent, _die)[event.detail % 4]
    alive = [agent for agent in world.agents if not agent.gone]
    chosen = alive if event.subject % 3 == 0 else alive[::2]
    for agent in chosen:
        fault(world, agent, event._replace(detail=event.detail + 3))


WORLD_FAULTS: dict[str, Callable[[World, Event], None]] = {
    "kill": _kill,
    "kill_at": _kill_at,
    "freeze_daemon": _freeze_daemon,
    "disk_stall": _disk_stall,
    "disk_fail": _disk_fail,
    "jump": _jump,
    "lag": _lag,
    "together": _together,
}
