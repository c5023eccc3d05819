"""The catalogue: every metric of meshd with its kind, labels and meaning.

Rule: a metric is declared here, once; the page, docs/reference/metrics.md, the alerts and the dashboard are checked against it.
Names begin with meshd_ and stay. Labels are namespace, type, state, method, code, reason and cause, never an id.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

CALL_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
COMMIT_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STAGE_BUCKETS_S: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    60,
    600,
    3600,
)


class Metric(NamedTuple):
    """One family."""

    name: str
    """Without the _total that the text format adds to counters."""
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    buckets_s: tuple[float, ...] = ()
    """Upper bounds of a histogram."""

    @property
    def shown_name(self) -> str:
        """The name as the page and queries have it; a histogram's samples add _bucket, _sum and _count."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


NAMESPACE: Final = ("namespace",)
LOSS_CAUSES: Final = ("connection", "ttl", "superseded", "revoked", "hold")

# ---- the way of tasks
SUBMITTED: Final = Metric("meshd_tasks_submitted", "counter", "Tasks taken.", NAMESPACE)
ASSIGNED: Final = Metric("meshd_attempts_assigned", "counter", "Attempts handed out.", NAMESPACE)
ENDED: Final = Metric(
    "meshd_tasks_ended",
    "counter",
    "Tasks ended; poison and retries_exhausted are at 0 from the start.",
    ("namespace", "state", "reason"),
)
LOST: Final = Metric(
    "meshd_attempts_lost",
    "counter",
    f"Attempts taken from a lost agent; cause: {', '.join(LOSS_CAUSES)}. At 0 from the start.",
    ("namespace", "cause"),
)
RETURNED: Final = Metric(
    "meshd_attempts_returned",
    "counter",
    "Attempts that came back at no fault of the task; cause: declined, unaccepted.",
    ("namespace", "cause"),
)
STALE: Final = Metric("meshd_reports_stale", "counter", "Reports with a foreign or old fence.", NAMESPACE)
DURABLE_S: Final = Metric(
    "meshd_task_durable_seconds", "histogram", "From submit until durable.", NAMESPACE, STAGE_BUCKETS_S
)
ASSIGNED_S: Final = Metric(
    "meshd_task_assigned_seconds",
    "histogram",
    "From submit until an agent was chosen for the first attempt.",
    NAMESPACE,
    STAGE_BUCKETS_S,
)
ACCEPTED_S: Final = Metric(
    "meshd_attempt_accepted_seconds",
    "histogram",
    "From that choice until the agent accepted, the commit between included; counted when the attempt ends.",
    NAMESPACE,
    STAGE_BUCKETS_S,
)
RAN_S: Final = Metric(
    "meshd_attempt_ran_seconds",
    "histogram",
    "From Accept until the agent reported success or failure.",
    NAMESPACE,
    STAGE_BUCKETS_S,
)
SUCCEEDED_S: Final = Metric(
    "meshd_task_succeeded_seconds",
    "histogram",
    "From submit until success, all attempts and pauses included.",
    NAMESPACE,
    STAGE_BUCKETS_S,
)

# ---- the mesh at this moment
TASKS: Final = Metric("meshd_tasks_open", "gauge", "Open tasks by state.", ("namespace", "state"))
UNPLACEABLE: Final = Metric(
    "meshd_tasks_unplaceable",
    "gauge",
    "Queued tasks that no agent in reach can take, however long they wait: capability or label is missing, or every "
    "agent that has it is gone, silent or draining.",
    NAMESPACE,
)
OLDEST: Final = Metric(
    "meshd_queue_oldest_seconds", "gauge", "Time since submit of the oldest queued task.", NAMESPACE
)
AGENTS: Final = Metric(
    "meshd_agents", "gauge", "Known agents by type and health.", ("namespace", "type", "state")
)
SESSIONS: Final = Metric(
    "meshd_sessions", "gauge", "Sessions by health, restored ones included.", ("namespace", "state")
)
SLOTS: Final = Metric("meshd_slots", "gauge", "Slots of all sessions.", NAMESPACE)
FREE_SLOTS: Final = Metric("meshd_slots_free", "gauge", "Slots without an attempt.", NAMESPACE)
STREAMS: Final = Metric("meshd_streams", "gauge", "Open streams of agents.", NAMESPACE)
WATCHERS: Final = Metric("meshd_watchers", "gauge", "Open watches of tasks and agents.")

# ---- calls
HANDLED: Final = Metric("meshd_calls_handled", "counter", "Calls and streams ended.", ("method", "code"))
REFUSED: Final = Metric("meshd_calls_refused", "counter", "Calls refused, by error reason.", ("reason",))
CALLS_WAITING: Final = Metric(
    "meshd_calls_waiting",
    "gauge",
    "Calls that wait to be taken, as last looked; some are refused as overloaded while they wait for more than 0.5 s.",
)
CALL_S: Final = Metric(
    "meshd_call_seconds", "histogram", "Duration of calls; streams last long.", ("method",), CALL_BUCKETS_S
)

# ---- storage
COMMIT_S: Final = Metric("meshd_commit_seconds", "histogram", "Duration of commits.", (), COMMIT_BUCKETS_S)
ROWS: Final = Metric(
    "meshd_commit_rows", "counter", "Rows of tasks, attempts and audit records made durable."
)
UNCOMMITTED: Final = Metric("meshd_uncommitted_bytes", "gauge", "Payload bytes that wait for the disk.")
UNCOMMITTED_S: Final = Metric("meshd_uncommitted_seconds", "gauge", "How long the oldest change waits.")
DATABASE: Final = Metric("meshd_database_bytes", "gauge", "Size of the database and its log on disk.")
FREE_SPACE: Final = Metric("meshd_storage_free_bytes", "gauge", "Space left for the data directory.")
STORAGE_LOW: Final = Metric("meshd_storage_low", "gauge", "1 while new tasks are refused for want of space.")

# ---- the daemon itself
READY: Final = Metric("meshd_ready", "gauge", "1 while calls are served.")
LAG: Final = Metric("meshd_loop_lag_seconds", "gauge", "By how much the event loop runs late.")
ANSWERED: Final = Metric(
    "meshd_loop_answered",
    "gauge",
    "1 when the event loop answered this scrape in time; gauges of the mesh are absent when it did not.",
)
CERTIFICATE_ENDS: Final = Metric(
    "meshd_certificate_expire_time_seconds",
    "gauge",
    "End of the certificate of tls_cert, in seconds since 1970; absent without one.",
)
STALLS: Final = Metric("meshd_stalls", "counter", "Times the daemon itself stood still.")
STALLED_S: Final = Metric("meshd_stalled_seconds", "counter", "Seconds the daemon itself stood still.")
PROCESS: Final = (
    Metric("meshd_process_cpu_seconds", "counter", "Processor time, user and system."),
    Metric("meshd_process_resident_memory_bytes", "gauge", "Resident memory."),
    Metric("meshd_process_virtual_memory_bytes", "gauge", "Virtual memory."),
    Metric("meshd_process_open_fds", "gauge", "Open file descriptors."),
    Metric("meshd_process_max_fds", "gauge", "Limit of file descriptors."),
    Metric("meshd_process_start_time_seconds", "gauge", "Start of the process, in seconds since 1970."),
)

CATALOGUE: Final[dict[str, tuple[Metric, ...]]] = {
    "The way of tasks": (
        SUBMITTED,
        ASSIGNED,
        ENDED,
        LOST,
        RETURNED,
        STALE,
        DURABLE_S,
        ASSIGNED_S,
        ACCEPTED_S,
        RAN_S,
        SUCCEEDED_S,
    ),
    "The mesh at this moment": (
        TASKS,
        UNPLACEABLE,
        OLDEST,
        AGENTS,
        SESSIONS,
        SLOTS,
        FREE_SLOTS,
        STREAMS,
        WATCHERS,
    ),
    "Calls": (HANDLED, REFUSED, CALLS_WAITING, CALL_S),
    "Storage": (COMMIT_S, ROWS, UNCOMMITTED, UNCOMMITTED_S, DATABASE, FREE_SPACE, STORAGE_LOW),
    "The daemon itself": (READY, LAG, ANSWERED, CERTIFICATE_ENDS, STALLS, STALLED_S, *PROCESS),
}

INTRODUCTION: Final = """\
# Metrics

What `/metrics` on meshd's HTTP port (setting `http_listen`) shows, in the text format of Prometheus.
Made by `make docs` from `meshd/ops/catalogue.py`.

Labels are never ids, so the number of series is bounded whatever callers send: 100 namespaces have series of their own,
at the start those with agents or open tasks first, then those that come; further ones are counted together as `_other`. Times are seconds. Stages of tasks are measured with the
wall clock, to the millisecond, when the change that ends them is written to disk.

`deploy/prometheus-rules.yaml` holds alerts on these metrics, `deploy/grafana-dashboard.json` a dashboard. Both expect
a scrape every 5 s:

```yaml
scrape_configs:
  - job_name: meshd
    scrape_interval: 5s
    static_configs: [{ targets: ["127.0.0.1:7601"] }]
rule_files: [prometheus-rules.yaml]
```
"""


def every_metric() -> list[Metric]:
    """Return the whole catalogue in its order."""
    return [metric for group in CATALOGUE.values() for metric in group]


def page() -> str:
    """Return docs/reference/metrics.md."""
    lines = [INTRODUCTION]
    for title, metrics in CATALOGUE.items():
        lines += [f"## {title}", "", "| Metric | Kind | Labels | Meaning |", "|---|---|---|---|"]
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{metric.shown_name}` | {metric.kind} | {labels} | {metric.text} |")
        lines.append("")
    return "\n".join(lines)
