"""Where a task's time goes: each room by itself in one process, without gRPC, threads and waiting.

``python -m bench.rooms`` submits, hands out and finishes tasks in batches through the real codec, domain and store, and
prints the processor time a task costs in each room: the median of many batches, so that a busy machine matters little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, cast

from agentmesh.v1 import scheduler_service_pb2, session_pb2
from bench.load import PAYLOAD, spec_of
from meshd.domain import commands as c
from meshd.domain.effects import Effects
from meshd.domain.frames import Ack, Assign, DownFrame, Feature
from meshd.domain.limits import SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.machine import handle
from meshd.domain.state import Counter, Namespace
from meshd.domain.values import AgentSpec, AgentType, NamespaceInfo, Now, Session
from meshd.engine.commits import Commits
from meshd.engine.id_filter import IdFilter
from meshd.engine.known_tasks import KnownTasks
from meshd.ports.store import Store
from meshd.store.sqlite import SqliteStore
from meshd.wire.codec import frames as frame_codec
from meshd.wire.codec import tasks as task_codec
from meshd.wire.codec.submit_results import submit_results

SLOTS = 50


class Rooms:
    """One namespace, its agents, and the clock of each room."""

    def __init__(self, store: SqliteStore, agents: int) -> None:
        self.store = store
        self.rules = SessionRules()
        self.fleet = Fleet(self.rules)
        info = NamespaceInfo("default", "", 0, 1)
        self.ns = Namespace(info, self.rules, self.fleet, Counter(1), Random(1))
        self.known = KnownTasks(cast("Store", store), cast("Commits", None))
        self.known._stored = IdFilter()  # noqa: SLF001  # nothing to learn in an empty store
        self.spent: dict[str, list[float]] = defaultdict(list)
        self.out = Effects()
        for number in range(agents):
            self._connect(f"agent-{number}")

    @contextmanager
    def room(self, name: str, tasks: int) -> Iterator[None]:
        """Count the processor time of a block."""
        begin = time.process_time_ns()
        yield
        self.spent[name].append((time.process_time_ns() - begin) / 1_000 / tasks)

    def handle(self, *batch: c.Command) -> None:
        """Hand commands to the machine."""
        handle(self.ns, list(batch), Now(time.monotonic(), 1), self.out)

    def taken(self) -> Effects:
        """Return the effects so far and begin anew."""
        out, self.out = self.out, Effects()
        return out

    def _connect(self, agent_id: str) -> None:
        spec = AgentSpec(agent_id, AgentType.WORKER, capabilities=frozenset(("work",)), slots=SLOTS)
        secret = sha256(agent_id.encode()).digest()
        self.handle(c.Register(None, spec, f"s-{agent_id}", secret, secret))
        features = frozenset(map(int, Feature))
        opening = c.OpenStream(None, agent_id, agent_id, f"s-{agent_id}", secret, 1, True, features, None, [])
        self.handle(opening)
        self.taken()

    def run(self, first: int, count: int) -> None:
        """Bring a batch of tasks through all rooms."""
        raw = scheduler_service_pb2.SubmitTasksRequest(
            specs=[spec_of(f"task-{number}") for number in range(first, first + count)]
        ).SerializeToString()
        with self.room("submit: parse and check", count):
            request = scheduler_service_pb2.SubmitTasksRequest.FromString(raw)
            specs = [task_codec.spec_from(each, "") for each in request.specs]
        with self.room("submit: is the id new", count):
            for each in specs:
                self.known._may_know("default", each.task_id)  # noqa: SLF001
        with self.room("domain: submit, assign", count):
            self.handle(c.Submit(None, specs, "agent:default/bench", {}, self.ns.ended_count, copies=False))
        submitted = self.taken()
        payloads = {task.key: task.spec.payload for task in submitted.writes.new_tasks.values()}
        self._commit(submitted, count)
        with self.room("submit: answer", count):
            (results,) = (reply for _, reply in submitted.replies)
            ids = [each.task_id for each in specs]
            answers = submit_results(ids, cast("Any", results))
            scheduler_service_pb2.SubmitTasksResponse(results=answers).SerializeToString()
        by_agent: dict[Any, list[DownFrame]] = defaultdict(list)
        for stream, frame in submitted.sends:
            assert isinstance(frame, Assign)
            by_agent[stream].append(frame)
        with self.room("assign: encode", count):
            for frames in by_agent.values():
                self._encode(frames, payloads)
        reports = {agent: _report(frames) for agent, frames in by_agent.items()}
        with self.room("report: parse", count):
            messages = {
                agent: scheduler_service_pb2.WorkRequest.FromString(raw) for agent, raw in reports.items()
            }
            parsed = {agent: frame_codec.up(each.frames)[0] for agent, each in messages.items()}
        sessions: dict[Any, Session] = {s.stream: s for s in self.ns.sessions.values()}
        with self.room("domain: accept, done", count):
            self.handle(*(c.Frames(sessions[agent], agent, frames) for agent, frames in parsed.items()))
        done = self.taken()
        self._commit(done, count)
        acks: dict[Any, list[DownFrame]] = defaultdict(list)
        for stream, frame in done.sends:
            assert isinstance(frame, Ack)
            acks[stream].append(frame)
        with self.room("ack: encode", count):
            for frames in acks.values():
                self._encode(frames, {})

    def _encode(self, frames: list[DownFrame], payloads: dict[int, bytes]) -> None:
        for batch in frame_codec.cut(frames, 1_000_000):
            message = scheduler_service_pb2.WorkResponse()
            message.frames.extend([frame_codec.down(f, payloads, self.rules) for f in batch])
            message.SerializeToString()

    def _commit(self, effects: Effects, count: int) -> None:
        with self.room("store: rows", count):
            rows = self.store.snapshot(effects.writes)
        with self.room("store: commit", count):
            self.store.commit(rows)


def _report(frames: list[DownFrame]) -> bytes:
    answers = []
    for frame in frames:
        assert isinstance(frame, Assign)
        answers.append(session_pb2.AgentFrame(accept=session_pb2.Accept(fence=frame.fence)))
        answers.append(session_pb2.AgentFrame(done=session_pb2.Done(fence=frame.fence, output=PAYLOAD)))
    return scheduler_service_pb2.WorkRequest(frames=answers).SerializeToString()


def main() -> None:
    """Run many batches and print the rooms."""
    parser = argparse.ArgumentParser(prog="bench.rooms", description=__doc__)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--batches", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder))
        store.load()
        rooms = Rooms(store, options.agents)
        for number in range(options.batches):
            rooms.run(number * options.batch, options.batch)
        store.close()
    total = 0.0
    for name, spent in rooms.spent.items():
        # A room is entered once a batch, the store twice.
        times = len(spent) / options.batches
        total += median(spent) * times
        print(f"{name:26} {median(spent) * times:6.2f} µs a task")
    print(f"{'all rooms':26} {total:6.2f} µs a task")


if __name__ == "__main__":
    main()
