"""Prometheus metrics of meshd: counts what the mesh reports and shows it as the catalogue says.

Rule: a family holds a bounded number of series whatever callers send: namespaces beyond a limit, and label values that
strangers can choose, are counted together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Final

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from meshd.domain.values import OutcomeReason, TaskState
from meshd.ops import catalogue
from meshd.ports.gauges import MeshGauges, NamespaceGauges, StorageGauges
from meshd.ports.observer import Stage

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST
MAX_SERIES: Final = 2_000
"""Label combinations of one family; further ones are counted together under "other"."""
MAX_NAMESPACES: Final = 100
"""Namespaces with series of their own; the others share one, whose name no namespace can have."""
OTHER_NAMESPACES: Final = "_other"

STAGES: Final = {
    Stage.DURABLE: catalogue.DURABLE_S,
    Stage.ASSIGNED: catalogue.ASSIGNED_S,
    Stage.ACCEPTED: catalogue.ACCEPTED_S,
    Stage.RAN: catalogue.RAN_S,
    Stage.SUCCEEDED: catalogue.SUCCEEDED_S,
}

log = structlog.get_logger()

# The time at which a counter was made helps nobody and doubles the page.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class _Namespaces:
    """The label of each namespace: its name for those that came first."""

    def __init__(self, begin: Callable[[str], None]) -> None:
        self._begin = begin
        self._labels: dict[str, str] = {}
        self._told = False

    def label(self, namespace: str) -> str:
        label = self._labels.get(namespace)
        if label is None:
            if len(self._labels) >= MAX_NAMESPACES:
                if not self._told:
                    self._told = True
                    self._begin(OTHER_NAMESPACES)
                    log.warning(
                        "there are more namespaces than metrics name; the others are counted together, until a"
                        " restart names those with agents or open tasks first",
                        named=MAX_NAMESPACES,
                        together_as=OTHER_NAMESPACES,
                    )
                return OTHER_NAMESPACES
            label = self._labels[namespace] = namespace
            self._begin(namespace)
        return label


class _Counts(Collector):
    """A counter that is a dict: prometheus_client's own takes a lock and six calls for each addition."""

    def __init__(self, registry: CollectorRegistry, metric: catalogue.Metric) -> None:
        self._metric = metric
        self._counts: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def add(self, count: float, *values: str) -> None:
        """Add to the series with these label values."""
        counts = self._counts
        if values not in counts and len(counts) >= MAX_SERIES:
            values = ("other",) * len(values)
        counts[values] = counts.get(values, 0) + count

    def begin(self, *values: str) -> None:
        """Show this series before anything is counted: Prometheus takes the first value it sees for no increase."""
        self._counts.setdefault(values, 0)

    def describe(self) -> Iterator[Metric]:
        """Name what there will be."""
        yield CounterMetricFamily(self._metric.name, self._metric.text, labels=self._metric.labels)

    def collect(self) -> Iterator[Metric]:
        """Yield the counts; called on the scraping thread."""
        family = CounterMetricFamily(self._metric.name, self._metric.text, labels=self._metric.labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count)
        yield family


class _Times(Collector):
    """A histogram with one label, fed by counts per millisecond: whole batches go in at once."""

    def __init__(self, registry: CollectorRegistry, metric: catalogue.Metric) -> None:
        self._metric = metric
        self._bounds_ms = [bound * 1_000 for bound in metric.buckets_s]
        self._counts: dict[str, list[int]] = {}
        self._sums_ms: dict[str, float] = {}
        registry.register(self)

    def add(self, label: str, count_by_ms: Mapping[int, int] | Mapping[float, int]) -> None:
        """Add one batch."""
        counts = self._counts.get(label)
        if counts is None:
            if len(self._counts) >= MAX_SERIES // len(self._bounds_ms):
                label = "other"
            counts = self._counts.setdefault(label, [0] * (len(self._bounds_ms) + 1))
            self._sums_ms.setdefault(label, 0)
        sum_ms = 0.0
        for ms, count in count_by_ms.items():
            # The wall clock may have been set back meanwhile.
            at_least_0_ms = max(0, ms)
            counts[bisect_left(self._bounds_ms, at_least_0_ms)] += count
            sum_ms += at_least_0_ms * count
        self._sums_ms[label] += sum_ms

    def describe(self) -> Iterator[Metric]:
        """Name what there will be."""
        yield HistogramMetricFamily(self._metric.name, self._metric.text, labels=self._metric.labels)

    def collect(self) -> Iterator[Metric]:
        """Yield the histogram; called on the scraping thread."""
        metric = self._metric
        family = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        bounds = [*map(floatToGoString, metric.buckets_s), "+Inf"]
        for label, counts in list(self._counts.items()):
            # Copied first: the event loop goes on counting.
            reached = list(accumulate(list(counts)))
            buckets = list(zip(bounds, reached, strict=True))
            family.add_metric([label], buckets, self._sums_ms.get(label, 0) / 1_000)
        yield family


class Metrics:
    """Counts what the mesh reports (port Observer) and renders the page."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        new = self.registry
        self._namespaces = _Namespaces(self._begin)
        self._submitted = _Counts(new, catalogue.SUBMITTED)
        self._assigned = _Counts(new, catalogue.ASSIGNED)
        self._ended = _Counts(new, catalogue.ENDED)
        self._lost = _Counts(new, catalogue.LOST)
        self._returned = _Counts(new, catalogue.RETURNED)
        self._stale = _Counts(new, catalogue.STALE)
        self._stages = {stage: _Times(new, metric) for stage, metric in STAGES.items()}
        self._refused = _Counts(new, catalogue.REFUSED)
        self._handled = _Counts(new, catalogue.HANDLED)
        self._durations = _Times(new, catalogue.CALL_S)
        self._commits = _histogram(new, catalogue.COMMIT_S)
        self._rows = Counter(catalogue.ROWS.name, catalogue.ROWS.text, registry=new)
        self._stalls = Counter(catalogue.STALLS.name, catalogue.STALLS.text, registry=new)
        self._stalled_s = Counter(catalogue.STALLED_S.name, catalogue.STALLED_S.text, registry=new)
        ProcessCollector(namespace="meshd", registry=new)

    def _begin(self, namespace: str) -> None:
        """Show at 0 what alerts watch the increase of."""
        for cause in catalogue.LOSS_CAUSES:
            self._lost.begin(namespace, cause)
        for outcome in (OutcomeReason.POISON, OutcomeReason.RETRIES_EXHAUSTED):
            self._ended.begin(namespace, TaskState.FAILED.name.lower(), outcome.name.lower())

    def name(self, namespaces: list[NamespaceGauges]) -> None:
        """Give series of their own to namespaces, to those with agents or open tasks first."""
        for ns in sorted(namespaces, key=_busy_first):
            self._namespaces.label(ns.namespace)

    def add_gauges(
        self,
        mesh: Callable[[], MeshGauges | None],
        *,
        storage: Callable[[], StorageGauges],
        ready: Callable[[], bool],
        lag_s: Callable[[], float],
        calls_waiting: Callable[[], int],
        certificate_expire_s: Callable[[], float | None],
    ) -> None:
        """Show the mesh itself; all are asked at every scrape, on the scraping thread; ``mesh`` may answer None."""
        self.registry.register(
            _Gauges(mesh, storage, ready, lag_s, calls_waiting, certificate_expire_s, self._namespaces)
        )

    def page(self) -> bytes:
        """Render all metrics in the text format."""
        return generate_latest(self.registry)

    # ---- port Observer

    def submitted(self, namespace: str, count: int) -> None:
        """New tasks were taken."""
        self._submitted.add(count, self._namespaces.label(namespace))

    def assigned(self, namespace: str, count: int) -> None:
        """Attempts were handed out."""
        self._assigned.add(count, self._namespaces.label(namespace))

    def ended(self, namespace: str, state: TaskState, outcome: OutcomeReason, count: int) -> None:
        """Tasks reached a terminal state."""
        self._ended.add(count, self._namespaces.label(namespace), state.name.lower(), outcome.name.lower())

    def lost(self, namespace: str, cause: str, count: int) -> None:
        """Attempts were taken from a lost agent."""
        self._lost.add(count, self._namespaces.label(namespace), cause)

    def returned(self, namespace: str, cause: str, count: int) -> None:
        """Attempts came back at no fault of the task."""
        self._returned.add(count, self._namespaces.label(namespace), cause)

    def stale(self, namespace: str, count: int) -> None:
        """Reports with a foreign or old fence were refused."""
        self._stale.add(count, self._namespaces.label(namespace))

    def staged(self, stage: Stage, namespace: str, count_by_ms: Mapping[int, int]) -> None:
        """Tasks of one batch went through a stage."""
        self._stages[stage].add(self._namespaces.label(namespace), count_by_ms)

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
        self._durations.add(method, {seconds * 1_000: 1})

    def stalled(self, seconds: float) -> None:
        """The daemon itself stood still for so long."""
        self._stalls.inc()
        self._stalled_s.inc(seconds)


class _Gauges(Collector):
    """Reads the mesh at scrape time."""

    def __init__(
        self,
        mesh: Callable[[], MeshGauges | None],
        storage: Callable[[], StorageGauges],
        ready: Callable[[], bool],
        lag_s: Callable[[], float],
        calls_waiting: Callable[[], int],
        certificate_expire_s: Callable[[], float | None],
        namespaces: _Namespaces,
    ) -> None:
        self._mesh = mesh
        self._storage = storage
        self._ready = ready
        self._lag_s = lag_s
        self._calls_waiting = calls_waiting
        self._certificate_expire_s = certificate_expire_s
        self._namespaces = namespaces

    def describe(self) -> Iterator[Metric]:
        """Name nothing ahead: asking the mesh at registration would be too early."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; those of the mesh are absent when the event loop did not answer."""
        yield _single(catalogue.READY, float(self._ready()))
        yield _single(catalogue.LAG, self._lag_s())
        yield _single(catalogue.CALLS_WAITING, self._calls_waiting())
        expire_s = self._certificate_expire_s()
        if expire_s is not None:
            yield _single(catalogue.CERTIFICATE_ENDS, expire_s)
        storage = self._storage()
        yield _single(catalogue.DATABASE, storage.database_bytes)
        yield _single(catalogue.FREE_SPACE, storage.free_bytes)
        yield _single(catalogue.STORAGE_LOW, float(storage.low))
        mesh = self._mesh()
        yield _single(catalogue.ANSWERED, float(mesh is not None))
        if mesh is not None:
            yield _single(catalogue.UNCOMMITTED, mesh.uncommitted_bytes)
            yield _single(catalogue.UNCOMMITTED_S, mesh.uncommitted_age_s)
            yield _single(catalogue.WATCHERS, mesh.watchers)
            yield from self._by_namespace(mesh.namespaces)

    def _by_namespace(self, namespaces: list[NamespaceGauges]) -> Iterator[Metric]:
        oldest_s: dict[tuple[str, ...], float] = {}
        sums: dict[catalogue.Metric, dict[tuple[str, ...], float]] = {metric: {} for metric in _SUMMED}

        def add(metric: catalogue.Metric, value: float, *labels: str) -> None:
            values = sums[metric]
            values[labels] = values.get(labels, 0.0) + value

        for ns in sorted(namespaces, key=_busy_first):
            label = self._namespaces.label(ns.namespace)
            oldest_s[label,] = max(oldest_s.get((label,), 0.0), ns.oldest_queued_s)
            add(catalogue.UNPLACEABLE, ns.unplaceable, label)
            add(catalogue.SLOTS, ns.slots, label)
            add(catalogue.FREE_SLOTS, ns.free_slots, label)
            add(catalogue.STREAMS, ns.streams, label)
            for state, count in ns.open_tasks.items():
                add(catalogue.TASKS, count, label, state.name.lower())
            for (kind, health), count in ns.agents.items():
                add(catalogue.AGENTS, count, label, kind.name.lower(), health.name.lower())
            for health, count in ns.sessions.items():
                add(catalogue.SESSIONS, count, label, health.name.lower())
        yield _family(catalogue.OLDEST, oldest_s)
        for metric, values in sums.items():
            yield _family(metric, values)


_SUMMED: Final = (
    catalogue.TASKS,
    catalogue.UNPLACEABLE,
    catalogue.AGENTS,
    catalogue.SESSIONS,
    catalogue.SLOTS,
    catalogue.FREE_SLOTS,
    catalogue.STREAMS,
)


def _busy_first(namespace: NamespaceGauges) -> tuple[bool, str]:
    return not any(namespace.agents.values()) and not any(namespace.open_tasks.values()), namespace.namespace


def _histogram(registry: CollectorRegistry, metric: catalogue.Metric) -> Histogram:
    return Histogram(metric.name, metric.text, metric.labels, buckets=metric.buckets_s, registry=registry)


def _single(metric: catalogue.Metric, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.text, value)


def _family(metric: catalogue.Metric, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.text, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
