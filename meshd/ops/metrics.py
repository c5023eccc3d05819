"""Prometheus metrics of meshd.

Rule: names begin with meshd_ and stay; labels are namespace, type, state, method, code, reason and cause only, never an
id, and a family holds a bounded number of series whatever callers send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from meshd.domain.values import OutcomeReason, TaskState
from meshd.ports.gauges import MeshGauges

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST
MAX_SERIES: Final = 2_000
"""Label combinations of one family; further ones are counted together under "other"."""

CALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
COMMIT_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# The time at which a counter was made helps nobody and doubles the page.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class _Counts:
    """A counter whose children are found by one look into a dict."""

    __slots__ = ("_children", "_counter")

    def __init__(self, registry: CollectorRegistry, name: str, text: str, *labels: str) -> None:
        self._counter = Counter(name, text, labels, registry=registry)
        self._children: dict[tuple[str, ...], Counter] = {}

    def add(self, count: float, *values: str) -> None:
        child = self._children.get(values)
        if child is None:
            labels = values if len(self._children) < MAX_SERIES else ("other",) * len(values)
            child = self._counter.labels(*labels)
            if labels is values:
                self._children[values] = child
        child.inc(count)


class Metrics:
    """Counts what the mesh reports (port Observer) and renders the page."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        new = self.registry
        self._submitted = _Counts(new, "meshd_tasks_submitted", "Tasks taken.", "namespace")
        self._assigned = _Counts(new, "meshd_attempts_assigned", "Attempts handed out.", "namespace")
        self._ended = _Counts(new, "meshd_tasks_ended", "Tasks ended.", "namespace", "state", "reason")
        self._lost = _Counts(
            new, "meshd_attempts_lost", "Attempts taken from lost agents.", "namespace", "cause"
        )
        self._stale = _Counts(new, "meshd_reports_stale", "Reports with a foreign or old fence.", "namespace")
        self._refused = _Counts(new, "meshd_calls_refused", "Calls refused.", "reason")
        self._handled = _Counts(new, "meshd_calls_handled", "Calls and streams ended.", "method", "code")
        self._durations = Histogram(
            "meshd_call_seconds",
            "Duration of calls; streams last long.",
            ["method"],
            buckets=CALL_BUCKETS,
            registry=new,
        )
        self._duration_of: dict[str, Histogram] = {}
        self._commits = Histogram(
            "meshd_commit_seconds", "Duration of commits.", buckets=COMMIT_BUCKETS, registry=new
        )
        self._rows = Counter("meshd_commit_rows", "Rows made durable.", registry=new)
        self._stalls = Counter("meshd_stalls", "Times the daemon itself stood still.", registry=new)
        self._stalled_s = Counter(
            "meshd_stalled_seconds", "Seconds the daemon itself stood still.", registry=new
        )
        ProcessCollector(namespace="meshd", registry=new)

    def add_gauges(
        self, mesh: Callable[[], MeshGauges | None], *, ready: Callable[[], bool], lag_s: Callable[[], float]
    ) -> None:
        """Show the mesh itself; ``mesh`` is asked at every scrape, on the scraping thread, and may answer None."""
        self.registry.register(_Gauges(mesh, ready, lag_s))

    def page(self) -> bytes:
        """Render all metrics in the text format."""
        return generate_latest(self.registry)

    # ---- port Observer

    def submitted(self, namespace: str, count: int) -> None:
        """New tasks were taken."""
        self._submitted.add(count, namespace)

    def assigned(self, namespace: str, count: int) -> None:
        """Attempts were handed out."""
        self._assigned.add(count, namespace)

    def ended(self, namespace: str, state: TaskState, outcome: OutcomeReason, count: int) -> None:
        """Tasks reached a terminal state."""
        self._ended.add(count, namespace, state.name.lower(), outcome.name.lower())

    def lost(self, namespace: str, cause: str, count: int) -> None:
        """Attempts were taken from a lost agent."""
        self._lost.add(count, namespace, cause)

    def stale(self, namespace: str, count: int) -> None:
        """Reports with a foreign or old fence were refused."""
        self._stale.add(count, namespace)

    def committed(self, rows: int, seconds: float) -> None:
        """A commit became durable."""
        self._commits.observe(seconds)
        self._rows.inc(rows)

    def refused(self, reason: str) -> None:
        """A call was refused."""
        self._refused.add(1, reason.lower())

    def handled(self, method: str, code: str, seconds: float) -> None:
        """A call ended with this gRPC code."""
        self._handled.add(1, method, code)
        duration = self._duration_of.get(method)
        if duration is None:
            known = len(self._duration_of) < MAX_SERIES // len(CALL_BUCKETS)
            duration = self._durations.labels(method if known else "other")
            if known:
                self._duration_of[method] = duration
        duration.observe(seconds)

    def stalled(self, seconds: float) -> None:
        """The daemon itself stood still for so long."""
        self._stalls.inc()
        self._stalled_s.inc(seconds)


class _Gauges(Collector):
    """Reads the mesh at scrape time."""

    def __init__(
        self, mesh: Callable[[], MeshGauges | None], ready: Callable[[], bool], lag_s: Callable[[], float]
    ) -> None:
        self._mesh = mesh
        self._ready = ready
        self._lag_s = lag_s

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name nothing ahead: asking the mesh at registration would be too early."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; those of the mesh are absent when the event loop did not answer."""
        yield GaugeMetricFamily("meshd_ready", "1 while calls are served.", float(self._ready()))
        yield GaugeMetricFamily(
            "meshd_loop_lag_seconds", "By how much the event loop runs late.", self._lag_s()
        )
        mesh = self._mesh()
        answered = float(mesh is not None)
        yield GaugeMetricFamily(
            "meshd_loop_answered", "1 when the event loop answered this scrape in time.", answered
        )
        if mesh is not None:
            yield from _families(mesh)


def _families(mesh: MeshGauges) -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "meshd_uncommitted_bytes", "Payload bytes that wait for the disk.", mesh.uncommitted_bytes
    )
    yield GaugeMetricFamily(
        "meshd_uncommitted_seconds", "How long the oldest change waits.", mesh.uncommitted_age_s
    )
    agents = GaugeMetricFamily(
        "meshd_agents", "Agents by type and health.", labels=["namespace", "type", "state"]
    )
    tasks = GaugeMetricFamily("meshd_tasks_open", "Open tasks by state.", labels=["namespace", "state"])
    oldest = GaugeMetricFamily(
        "meshd_queue_oldest_seconds", "Age of the oldest queued task.", labels=["namespace"]
    )
    sessions = GaugeMetricFamily(
        "meshd_sessions", "Sessions of agents, restored ones included.", labels=["namespace"]
    )
    slots = GaugeMetricFamily("meshd_slots", "Slots of all sessions.", labels=["namespace"])
    free = GaugeMetricFamily("meshd_slots_free", "Slots without an attempt.", labels=["namespace"])
    for ns in mesh.namespaces:
        for (kind, health), count in ns.agents.items():
            agents.add_metric([ns.namespace, kind.name.lower(), health.name.lower()], count)
        for state, count in ns.open_tasks.items():
            tasks.add_metric([ns.namespace, state.name.lower()], count)
        oldest.add_metric([ns.namespace], ns.oldest_queued_s)
        sessions.add_metric([ns.namespace], ns.sessions)
        slots.add_metric([ns.namespace], ns.slots)
        free.add_metric([ns.namespace], ns.free_slots)
    yield from (agents, tasks, oldest, sessions, slots, free)
