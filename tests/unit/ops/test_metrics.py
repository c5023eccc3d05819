"""The page of metrics: names and labels are a contract with everybody's dashboards."""

from prometheus_client.parser import text_string_to_metric_families

from meshd.domain.values import AgentType, Health, OutcomeReason, TaskState
from meshd.ops.metrics import MAX_SERIES, Metrics
from meshd.ports.gauges import MeshGauges, NamespaceGauges
from meshd.ports.observer import Observer

LABELS = {"namespace", "type", "state", "method", "code", "reason", "cause", "le"}

NAMES = {
    "meshd_agents",
    "meshd_attempts_assigned",
    "meshd_attempts_lost",
    "meshd_call_seconds",
    "meshd_calls_handled",
    "meshd_calls_refused",
    "meshd_commit_rows",
    "meshd_commit_seconds",
    "meshd_loop_answered",
    "meshd_loop_lag_seconds",
    "meshd_process_cpu_seconds",
    "meshd_process_max_fds",
    "meshd_process_open_fds",
    "meshd_process_resident_memory_bytes",
    "meshd_process_start_time_seconds",
    "meshd_process_virtual_memory_bytes",
    "meshd_queue_oldest_seconds",
    "meshd_ready",
    "meshd_reports_stale",
    "meshd_sessions",
    "meshd_slots",
    "meshd_slots_free",
    "meshd_stalled_seconds",
    "meshd_stalls",
    "meshd_tasks_ended",
    "meshd_tasks_open",
    "meshd_tasks_submitted",
    "meshd_uncommitted_bytes",
    "meshd_uncommitted_seconds",
}

MESH = MeshGauges(
    [
        NamespaceGauges(
            "production",
            {(AgentType.WORKER, Health.HEALTHY): 2, (AgentType.CRITIC, Health.LOST): 1},
            {TaskState.QUEUED: 4, TaskState.RUNNING: 1},
            oldest_queued_s=1.5,
            sessions=2,
            slots=8,
            free_slots=7,
        )
    ],
    uncommitted_bytes=512,
    uncommitted_age_s=0.25,
)


def new_metrics(mesh: MeshGauges | None = MESH) -> Metrics:
    metrics = Metrics()
    metrics.add_gauges(lambda: mesh, ready=lambda: True, lag_s=lambda: 0.002)
    return metrics


def happen(observer: Observer) -> None:
    observer.submitted("production", 3)
    observer.assigned("production", 2)
    observer.ended("production", TaskState.SUCCEEDED, OutcomeReason.COMPLETED, 2)
    observer.lost("production", "connection", 1)
    observer.stale("production", 1)
    observer.committed(7, 0.004)
    observer.refused("ACCESS_DENIED")
    observer.handled("SubmitTask", "OK", 0.003)
    observer.stalled(0.5)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def test_names_and_labels_stay() -> None:
    metrics = new_metrics()
    happen(metrics)
    families = list(text_string_to_metric_families(metrics.page().decode()))
    assert {family.name for family in families} == NAMES
    assert {label for family in families for sample in family.samples for label in sample.labels} <= LABELS


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
    assert found["meshd_calls_handled_total", (("code", "OK"), ("method", "SubmitTask"))] == 2
    assert found["meshd_calls_refused_total", (("reason", "access_denied"),)] == 2
    assert found["meshd_commit_rows_total", ()] == 14
    assert found["meshd_commit_seconds_count", ()] == 2
    assert found["meshd_stalled_seconds_total", ()] == 1.0


def test_the_mesh_is_shown_as_it_is() -> None:
    found = samples(new_metrics())
    here = ("namespace", "production")
    assert found["meshd_agents", (here, ("state", "healthy"), ("type", "worker"))] == 2
    assert found["meshd_tasks_open", (here, ("state", "queued"))] == 4
    assert found["meshd_queue_oldest_seconds", (here,)] == 1.5
    assert found["meshd_slots_free", (here,)] == 7
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
