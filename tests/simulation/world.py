"""One world: daemon, disk, agents, callers and the network between them, driven by a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from random import Random
from types import ModuleType
from typing import Any, Final

import meshd.domain.handlers.assign as assign_module
import meshd.domain.handlers.drain as drain_module
import meshd.domain.handlers.submit as submit_module
import meshd.domain.line as line_module
import meshd.domain.liveness as liveness_module
import meshd.domain.pacing as pacing_module
import meshd.domain.placement.pools as pools_module
import meshd.domain.state as state_module
import meshd.domain.swept_heap as swept_heap_module
from meshd.domain import commands as c
from meshd.domain.drains import AgentSelector, Drain, drain_id
from meshd.domain.effects import Effects
from meshd.domain.errors import Refusal
from meshd.domain.handlers.session import forget
from meshd.domain.liveness import Fleet
from meshd.domain.values import AgentSpec, AgentType, Now, Requirements, Session, Task, TaskSpec
from meshd.engine.restore import build
from tests.simulation.agents import Agent
from tests.simulation.daemon import Daemon
from tests.simulation.disk import Disk, snapshot
from tests.simulation.faults import AGENT_FAULTS, WORLD_FAULTS
from tests.simulation.history import plain
from tests.simulation.network import Call
from tests.simulation.oracle import Oracle
from tests.simulation.plan import Event, Plan, TaskPlan
from tests.simulation.timeline import Timeline
from tests.simulation.violation import Violation

START: Final = 100.0
SETTLE_S: Final = 4.0
PATIENCE_S: Final = 200.0
FEW_ENTRIES: Final = 2
"""A world has too few tasks for the mesh's own bound: nothing would be swept."""
MAX_IDLE_POOLS: Final = 1
"""And too few requirement sets for one to be forgotten."""
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
        self.drains: dict[tuple[str, str], None] = {}
        """Drains that somebody asked for and has not lifted."""
        self._lifting: Counter[tuple[str, str]] = Counter()
        """Lifts of a drain that have no reply yet."""
        self._lifted: Counter[tuple[str, str]] = Counter()
        self.latency_s = settings.latency_s
        self.disk_stall_until = 0.0
        self.disk_fails = False
        self._numbers = 0
        self.restart_s = 0.5
        self.from_backup = False
        """The next start is from a restored backup."""
        self._open_calls = 0
        self._asked: set[tuple[str, str]] = set()
        """(namespace, task id) of every submit."""
        self._over = False
        self.oracle = Oracle(self)

    # ---- running

    def run(self) -> None:
        """Live through the plan and what follows from it. Raises Violation."""
        with self._bounds_in_force():
            self._live()

    @contextmanager
    def _bounds_in_force(self) -> Iterator[None]:
        bounds, recent_tasks = self.plan.settings.bounds, self.plan.settings.recent_tasks
        ours: dict[tuple[ModuleType, str], int] = {
            (state_module, "RECENT_TASKS"): recent_tasks,
            (submit_module, "RECENT_TASKS"): recent_tasks,
            (liveness_module, "MASS_BREAK_MIN"): bounds.mass_break,
            (liveness_module, "MASS_EXPIRY_MIN_SESSIONS"): bounds.mass_expiry,
            (pacing_module, "MS_PER_SESSION"): bounds.ms_per_session,
            (drain_module, "MAX_DRAINS"): bounds.drains,
            (assign_module, "CHUNK_DRAWS"): bounds.kept_draws,
            (swept_heap_module, "FEW_ENTRIES"): FEW_ENTRIES,
            (line_module, "FEW_ENTRIES"): FEW_ENTRIES,
            (pools_module, "MAX_IDLE_POOLS"): MAX_IDLE_POOLS,
        }
        usual = {(module, name): vars(module)[name] for module, name in ours}
        try:
            for (module, name), bound in ours.items():
                vars(module)[name] = bound
            yield
        finally:
            for (module, name), bound in usual.items():
                vars(module)[name] = bound

    def _live(self) -> None:
        self._boot()
        for each in self.plan.settings.agents:
            if self.rng.random() < 0.3:
                self.declare(each.namespace, each.agent_id, self.number())
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
        self.latency_s = min(self.latency_s, 0.005)
        self.kill_at = None
        self.disk_fails = False
        self.disk_stall_until = 0.0
        self.note("---- no more faults")
        for drained, in_force in list(self.drains):
            self.lift_drain(drained, in_force)
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
        if self.from_backup:
            self.from_backup = False
            self._restore_backup()
        self.daemon = Daemon(self)

    def _restore_backup(self) -> None:
        """A backup becomes the present, here the newest: no session of before is left, as engine/recovery sees to."""
        now = Now(self.time.now, int(self.time.now * 1000) + self.wall_shift_ms)
        restored, out = self.disk.restore(), Effects()
        keys = state_module.Counter(restored.next_key)
        for ns in build(restored, self.rules, Fleet(self.rules), keys, self.rng, now).values():
            for session in list(ns.sessions.values()):
                forget(ns, session, now, out)
        self.oracle.durable.written(self.disk.write(snapshot(out.writes)))
        if any(agent.session is not None for agent in self.disk.restore().agents):
            raise Violation("a restored backup remembers a session")

    def kill(self, why: str) -> None:
        """Kill the daemon now; it comes back after a while."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            self.note("meshd is killed: %s", why)
            if self.time.now < daemon.frozen_until:
                self.daemon_freezes.pop()
            daemon.die()
            self.time.after(self.restart_s, self._boot)

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
        return own + max(0.0, self.disk_stall_until - self.time.now)

    def take_disk_failure(self) -> bool:
        """Return whether this commit fails."""
        fails, self.disk_fails = self.disk_fails, False
        return fails

    # ---- the network

    def latency(self) -> float:
        """Return how long the next message is under way."""
        return self.latency_s * (0.5 + self.rng.random())

    def reachable(self, agent: Agent) -> Daemon | None:
        """Return the daemon if the agent can connect to it."""
        now = self.time.now
        blocked = now < agent.up_blocked_until or now < agent.down_blocked_until
        return None if blocked else self._listening()

    def _listening(self) -> Daemon | None:
        daemon = self.daemon
        return daemon if daemon is not None and daemon.listening else None

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
        daemon = self._listening() if agent is None else self.reachable(agent)
        if daemon is None or self.rng.random() < self.loss:
            self.time.after(self.rng.random(), on_lost)
            return
        ticket = Call(self, daemon, on_reply, on_lost)
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
            # As the engine's filter: only of an id that was submitted before the store may know anything.
            taken = not self._asked.isdisjoint((namespace, task_id) for task_id in ids)
            self._asked.update((namespace, task_id) for task_id in ids)
            behind = daemon.barrier.pending_tasks > self.plan.settings.recent_tasks // 2
            if taken and behind:
                daemon.barrier.collecting.callbacks.append(partial(soon, daemon, ticket, seen))
            else:
                soon(daemon, ticket, seen)

        def soon(daemon: Daemon, ticket: Call, seen: int) -> None:
            daemon.later(self.time.now + self.rng.random() * 0.002, look, daemon, ticket, seen)

        def look(daemon: Daemon, ticket: Call, seen: int) -> None:
            known = self.disk.known(namespace, ids)
            specs = [_spec(task) for task in tasks]
            command = c.Submit(ticket, specs, "agent:x/y", known, seen, len(tasks) == 1)
            # Where much is forgotten, some looks are long ago when the submit is handled.
            wait_s = 2.0 if self.forgetful and self.rng.random() < 0.3 else 0.002
            daemon.later(self.time.now + self.rng.random() * wait_s, daemon.post, namespace, command)

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

    def declare(self, namespace: str, agent_id: str, number: int) -> None:
        """Make an agent known; the number says what is declared of it."""
        spec = AgentSpec(
            agent_id,
            AgentType.WORKER,
            name=f"name-{number}" if number % 3 else "",
            capabilities=frozenset(("gpu",)),
            labels={"floor": "2"} if number % 4 else {},
            host="host" if number % 5 else "",
            port=number,
            slots=2,
        )
        self.call(
            lambda daemon, ticket: daemon.post(namespace, c.Declare(ticket, spec)),
            lambda _: self.oracle.known(namespace, agent_id),
            lambda: None,
        )

    def start_drain(self, namespace: str, pattern: str, grace_ms: int, *, hand_over: bool) -> None:
        """Drain agents until it is lifted."""
        selector = AgentSelector(pattern)
        drain = Drain(namespace, drain_id(selector), selector, f"for {pattern}", "agent:x/y", 0)
        which = namespace, drain.drain_id
        self.drains[which] = None
        before = self._lifted[which]

        def ask(daemon: Daemon, ticket: Call) -> None:
            if which not in self.drains:
                # It was lifted while this was under way.
                ticket.lose()
                return
            daemon.post(namespace, c.StartDrain(ticket, drain, hand_over, grace_ms))

        def answered(reply: c.Drained | Refusal) -> None:
            if isinstance(reply, Refusal):
                return
            # An older lift that is asked for again lifts this one too.
            if which in self.drains and not self._lifting[which] and self._lifted[which] == before:
                self.oracle.drained(drain, reply)

        self.call(ask, answered, lambda: None)

    def lift_drain(self, namespace: str, which: str) -> None:
        """Lift a drain, again and again until there is a reply."""
        self.drains.pop((namespace, which), None)
        self._lifting[namespace, which] += 1
        self._open_calls += 1

        def ask(daemon: Daemon, ticket: Call) -> None:
            daemon.post(namespace, c.LiftDrain(ticket, which))

        def answered(reply: c.Drained) -> None:
            self._open_calls -= 1
            self._lifting[namespace, which] -= 1
            self._lifted[namespace, which] += 1

        def lost() -> None:
            self.time.after(self.rng.random(), self.call, ask, answered, lost)

        self.call(ask, answered, lost)

    def _read(self, namespace: str, task_id: str) -> None:
        def ask(daemon: Daemon, ticket: Call) -> None:
            ns = daemon.namespaces[namespace]
            task = ns.tasks.get(task_id) or ns.recent.get(task_id)
            self.oracle.explained(daemon, ns, task)
            if task is not None:
                reply = c.Submitted(task_id, True, copy(task))
                daemon.barrier.collecting.replies.append((ticket, reply))
                daemon._flush()
            else:
                ticket.lose()

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
