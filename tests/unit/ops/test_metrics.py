"""The page of metrics: names and labels are a contract with everybody's dashboards."""

from collections.abc import Iterator

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from meshd.domain.values import AgentType, Health, OutcomeReason, TaskState
from meshd.ops import catalogue
from meshd.ops.metrics import MAX_NAMESPACES, MAX_SERIES, OTHER_NAMESPACES, Metrics
from meshd.ports.gauges import MeshGauges, NamespaceGauges, StorageGauges
from meshd.ports.observer import Observer, Stage

LABELS = {"namespace", "type", "state", "method", "code", "reason", "cause"}
ENDS = ("poison", "retries_exhausted")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def a_namespace(name: str) -> NamespaceGauges:
    return NamespaceGauges(
        name,
        {(AgentType.WORKER, Health.HEALTHY): 2, (AgentType.CRITIC, Health.LOST): 1},
        {TaskState.QUEUED: 4, TaskState.RUNNING: 1},
        oldest_queued_s=1.5,
        unplaceable=3,
        sessions={Health.HEALTHY: 2},
        streams=2,
        slots=8,
        free_slots=7,
    )


def a_mesh(*namespaces: str) -> MeshGauges:
    return MeshGauges(
        [a_namespace(name) for name in namespaces], uncommitted_bytes=512, uncommitted_age_s=0.25, watchers=1
    )


MESH = a_mesh("production")


def new_metrics(mesh: MeshGauges | None = MESH) -> Metrics:
    metrics = Metrics()
    metrics.add_gauges(
        lambda: mesh,
        storage=lambda: StorageGauges("SQLite 3", 4_096, 1_000_000, 2_000_000, low=True),
        ready=lambda: True,
        calls_waiting=lambda: 4,
        lag_s=lambda: 0.002,
        certificate_expire_s=lambda: 1.8e9,
    )
    return metrics


def happen(observer: Observer, namespace: str = "production") -> None:
    observer.submitted(namespace, 3)
    observer.assigned(namespace, 2)
    observer.ended(namespace, TaskState.SUCCEEDED, OutcomeReason.COMPLETED, 2)
    observer.lost(namespace, "connection", 1)
    observer.returned(namespace, "declined", 1)
    observer.stale(namespace, 1)
    for stage in Stage:
        observer.staged(stage, namespace, {1: 2, 7: 1})
    observer.committed(7, 0.004)
    observer.refused("ACCESS_DENIED")
    observer.handled("SubmitTask", "OK", 0.003)
    observer.stalled(0.5)


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def shown(metrics: Metrics) -> Iterator[tuple[str, str, str, set[str]]]:
    for family in text_string_to_metric_families(metrics.page().decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        yield family.name, family.type, family.documentation, labels


def test_the_page_is_the_catalogue() -> None:
    metrics = new_metrics()
    happen(metrics)
    process = {metric.name for metric in catalogue.PROCESS}
    declared = {m.name: (m.kind, m.text, set(m.labels)) for m in catalogue.every_metric()}
    found = {name: (kind, text, labels) for name, kind, text, labels in shown(metrics)}
    assert found.keys() == declared.keys()
    assert {n: f for n, f in found.items() if n not in process} == {
        n: d for n, d in declared.items() if n not in process
    }


def test_labels_are_never_ids() -> None:
    assert {label for metric in catalogue.every_metric() for label in metric.labels} <= LABELS


def test_what_happened_is_counted() -> None:
    metrics = new_metrics()
    happen(metrics)
    happen(metrics)
    found = samples(metrics)
    here = ("namespace", "production")
    assert found["meshd_tasks_submitted_total", (here,)] == 6
    assert found["meshd_attempts_assigned_total", (here,)] == 4
    assert found["meshd_tasks_ended_total", (here, ("reason", "completed"), ("state", "succeeded"))] == 4
    assert found["meshd_attempts_lost_total", (("cause", "connection"), here)] == 2
    assert found["meshd_attempts_returned_total", (("cause", "declined"), here)] == 2
    assert found["meshd_calls_handled_total", (("code", "OK"), ("method", "SubmitTask"))] == 2
    assert found["meshd_calls_refused_total", (("reason", "access_denied"),)] == 2
    assert found["meshd_commit_rows_total", ()] == 14
    assert found["meshd_commit_seconds_count", ()] == 2
    assert found["meshd_stalled_seconds_total", ()] == 1.0


def test_stages_are_counted_by_batch_into_buckets() -> None:
    metrics = new_metrics()
    metrics.staged(Stage.RAN, "production", {-5: 1, 1: 2, 7: 1, 9_000_000: 1})
    metrics.staged(Stage.RAN, "production", {7: 3})
    found = samples(metrics)
    here = ("namespace", "production")

    def at(bound: str) -> float:
        return found["meshd_attempt_ran_seconds_bucket", (("le", bound), here)]

    assert [at("0.001"), at("0.005"), at("0.01"), at("3600.0"), at("+Inf")] == [3, 3, 7, 7, 8]
    assert found["meshd_attempt_ran_seconds_count", (here,)] == 8
    assert found["meshd_attempt_ran_seconds_sum", (here,)] == 9_000.03


def test_the_mesh_is_shown_as_it_is() -> None:
    found = samples(new_metrics())
    here = ("namespace", "production")
    assert found["meshd_agents", (here, ("state", "healthy"), ("type", "worker"))] == 2
    assert found["meshd_tasks_open", (here, ("state", "queued"))] == 4
    assert found["meshd_tasks_unplaceable", (here,)] == 3
    assert found["meshd_queue_oldest_seconds", (here,)] == 1.5
    assert found["meshd_sessions", (here, ("state", "healthy"))] == 2
    assert found["meshd_slots_free", (here,)] == 7
    assert found["meshd_streams", (here,)] == 2
    assert found["meshd_watchers", ()] == 1
    assert found["meshd_storage_low", ()] == 1
    assert found["meshd_database_bytes", ()] == 4_096
    assert found["meshd_loop_answered", ()] == 1


def test_a_loop_that_does_not_answer_leaves_the_counters() -> None:
    metrics = new_metrics(None)
    happen(metrics)
    found = samples(metrics)
    assert found["meshd_loop_answered", ()] == 0
    assert found["meshd_stalls_total", ()] == 1
    assert not [name for name, _ in found if name == "meshd_agents"]


def test_strangers_cannot_make_series_without_end() -> None:
    metrics = new_metrics()
    for number in range(MAX_SERIES + 500):
        metrics.handled(f"Method{number}", "UNIMPLEMENTED", 0.0)
    found = samples(metrics)
    assert len([name for name, _ in found if name == "meshd_calls_handled_total"]) == MAX_SERIES + 1
    assert found["meshd_calls_handled_total", (("code", "other"), ("method", "other"))] == 500
    assert len([name for name, _ in found if name == "meshd_call_seconds_bucket"]) < 2 * MAX_SERIES


def test_what_alerts_watch_is_shown_before_it_happens() -> None:
    metrics = new_metrics(None)
    metrics.name([a_namespace("production")])
    here = ("namespace", "production")

    def seen() -> list[float]:
        found = samples(metrics)
        lost = found["meshd_attempts_lost_total", (("cause", "ttl"), here)]
        return [
            lost,
            *(
                found["meshd_tasks_ended_total", (here, ("reason", reason), ("state", "failed"))]
                for reason in ENDS
            ),
        ]

    assert seen() == [0, 0, 0]
    metrics.lost("production", "ttl", 1)
    metrics.ended("production", TaskState.FAILED, OutcomeReason.POISON, 1)
    assert seen() == [1, 1, 0]


@pytest.mark.parametrize("at_start", [True, False])
def test_namespaces_with_agents_or_tasks_are_named_first(at_start: bool) -> None:
    idle = [a_namespace(f"a-{number}")._replace(agents={}, open_tasks={}) for number in range(MAX_NAMESPACES)]
    mesh = MeshGauges([*idle, a_namespace("production")], 0, 0.0, 0)
    metrics = new_metrics(mesh)
    if at_start:
        metrics.name(mesh.namespaces)
    with structlog.testing.capture_logs() as logged:
        found = samples(metrics)
        samples(metrics)
    assert found["meshd_slots", (("namespace", "production"),)] == 8
    assert len(logged) == (0 if at_start else 1)
    shown = {dict(labels)["namespace"] for name, labels in found if name == "meshd_slots"}
    assert shown == {*(f"a-{number}" for number in range(MAX_NAMESPACES)), "production", OTHER_NAMESPACES} - {
        max(ns.namespace for ns in idle)
    }


def test_namespaces_beyond_the_limit_share_their_series() -> None:
    names = [f"team-{number}" for number in range(MAX_NAMESPACES + 400)]
    metrics = new_metrics(a_mesh(*names))
    for name in names:
        happen(metrics, name)
    few = new_metrics(a_mesh("production"))
    happen(few)
    found = samples(metrics)
    assert len(found) <= (MAX_NAMESPACES + 1) * len(samples(few))
    others = ("namespace", OTHER_NAMESPACES)
    assert found["meshd_tasks_submitted_total", (others,)] == 3 * 400
    assert found["meshd_attempt_ran_seconds_count", (others,)] == 3 * 400
    assert found["meshd_tasks_open", (others, ("state", "queued"))] == 4 * 400
    assert found["meshd_queue_oldest_seconds", (others,)] == 1.5
