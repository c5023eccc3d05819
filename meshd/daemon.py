"""The composition root: builds meshd from its floors, runs it, and takes it down in order.

Order of the start: lock and store, keys, mesh, services, addresses; nothing answers before everything can. Order of
the end: new calls are refused, agents are sent away, what is pending becomes durable, the store is closed.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2_grpc

from agentmesh.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    namespace_service_pb2,
    namespace_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
)
from meshd.config import Settings, StartError, is_loopback, split_address
from meshd.domain import machine
from meshd.domain.commands import RevokeAgent
from meshd.domain.limits import SessionRules
from meshd.domain.pacing import ping_interval_ms
from meshd.engine import gauges
from meshd.engine.authority import Authority
from meshd.engine.credentials import Credentials
from meshd.engine.enrolment import Enrolment
from meshd.engine.known_tasks import KnownTasks
from meshd.engine.mesh import Mesh
from meshd.engine.retention import delete_old_tasks
from meshd.engine.submission import Submission
from meshd.ops import event_loop, garbage, logging, process, sd_notify, task_log, tls, tracing
from meshd.ops.http_port import HttpPort
from meshd.ops.metrics import Metrics
from meshd.ops.other_threads import OtherThreads
from meshd.ops.pages import pages
from meshd.ops.readiness import Readiness
from meshd.ports.store import Restored, StorageError
from meshd.ports.task_steps import StepListener
from meshd.security.keys import KEY_FOLDER, KeyFileError, jwks, load_signing_key
from meshd.security.proofs import Ed25519Proofs
from meshd.security.tokens import JwtTokens
from meshd.store.opening import DATABASE, copy_of
from meshd.store.schema import REVISIONS
from meshd.store.sqlite import SqliteStore
from meshd.wire import server as wire
from meshd.wire.access_rules import load_rules
from meshd.wire.admission import Admission
from meshd.wire.chain import Chain
from meshd.wire.held_calls import HeldCalls
from meshd.wire.services.auth import AuthService
from meshd.wire.services.health import SERVICE_NAME as HEALTH_SERVICE_NAME
from meshd.wire.services.health import HealthService
from meshd.wire.services.namespaces import NamespaceService
from meshd.wire.services.registry import RegistryService
from meshd.wire.services.scheduler import SchedulerService
from meshd.wire.services.sessions import SessionStreams

STOPPED: Final = 0
STORAGE_FAILED: Final = 3

CALLS_GRACE_S: Final = 1.5
"""From the signal on, time for calls under way to end."""
FLUSH_GRACE_S: Final = 2.0
EXIT_WITHIN_S: Final = 4.5
"""After this the process ends whatever hangs: all that was acknowledged is durable anyway."""
SCRAPE_TIMEOUT_S: Final = 1.0
MIB: Final = 1024 * 1024

SERVICES: Final = tuple(
    str(module.DESCRIPTOR.services_by_name[name].full_name)
    for module, name in (
        (registry_service_pb2, "RegistryService"),
        (scheduler_service_pb2, "SchedulerService"),
        (auth_service_pb2, "AuthService"),
        (namespace_service_pb2, "NamespaceService"),
    )
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """What the daemon runs, composed and not yet listening."""

    mesh: Mesh
    authority: Authority
    known: KnownTasks
    server: grpc.aio.Server
    health: HealthService
    admission: Admission
    open_calls: Callable[[], int]


async def run(settings: Settings) -> int:
    """Serve until a signal or a storage failure; return the exit code. Raises StartError."""
    logging.configure(settings.log_level, settings.log_format)
    process.allow_many_connections()
    loaded = tls.load(settings.tls_cert, settings.tls_key)
    certificate = tls.Served(settings.tls_cert, settings.tls_key, loaded) if loaded else None
    with _start_errors():
        store = SqliteStore(Path(settings.data_dir), settings.min_free_mib * MIB)
    _say_what_was_opened(Path(settings.data_dir) / DATABASE, store.former_revision)
    try:
        code, limit = await _serve(settings, store, certificate)
    finally:
        try:
            store.close()
        except Exception:
            log.exception("the store could not be closed; the next start recovers what it left")
    if limit is not None:
        limit.cancel()
    log.info("meshd stopped", code=code)
    return code


async def _serve(
    settings: Settings, store: SqliteStore, certificate: tls.Served | None
) -> tuple[int, threading.Timer | None]:
    """Return the exit code and what limits the rest of the end; None when it must not be lifted, as threads hang."""
    readiness = Readiness()
    metrics = Metrics()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def storage_failed(error: StorageError) -> None:
        readiness.withdraw("the storage failed")
        log.critical("the storage failed; meshd stops", error=str(error))
        _resolve(ended, STORAGE_FAILED)

    garbage.hold_off()
    with _start_errors():
        restored = store.load()
        open_tasks = len(restored.tasks)
        spans = tracing.task_spans(os.environ)
        listeners = [listener for listener in (task_log.listener(), spans) if listener is not None]
        parts = _compose(settings, store, restored, metrics, storage_failed, listeners)
        del restored
    # Before it listens: a server whose start was cancelled cannot be stopped. What cancelled the load ends here.
    process.on_signals(
        partial(_stopped_by, ended),
        certificate.read_again if certificate else _nothing_to_read_again,
    )
    await asyncio.sleep(0)
    readiness.listen(parts.health.set_serving)
    async with _listening(settings, parts, metrics, readiness, certificate) as addresses:
        garbage.begin()
        retention_ms = settings.retention_days * 24 * 3_600_000
        aside = [
            asyncio.create_task(work)
            for work in (
                delete_old_tasks(store, parts.mesh.commits, parts.mesh.namespaces.values, retention_ms),
                parts.known.learn(),
                garbage.search_young_forever(),
                garbage.collect_all_forever(),
                parts.admission.look_forever(parts.open_calls),
                OtherThreads().look_forever(),
                *([certificate.warn_forever()] if certificate else []),
            )
        ]
        for task in aside:
            task.add_done_callback(partial(_ended_aside, storage_failed))
        readiness.begin()
        sd_notify.notify("READY=1")
        log.info(
            "meshd ready",
            **addresses,
            data_dir=settings.data_dir,
            open_tasks=open_tasks,
            pid=os.getpid(),
            compiled=not machine.__file__.endswith(".py"),
        )
        code = await ended
        limit = process.end_later(code, EXIT_WITHIN_S)
        readiness.withdraw("shutting down")
        sd_notify.notify("STOPPING=1")
        log.info("meshd stops")
        for task in aside:
            task.cancel()
        finished = await _take_down(parts)
        if parts.mesh.commits.failed:
            code = STORAGE_FAILED
        if spans is not None:
            await asyncio.to_thread(spans.close)
    return code, limit if finished else None


def _compose(
    settings: Settings,
    store: SqliteStore,
    restored: Restored,
    metrics: Metrics,
    storage_failed: Callable[[StorageError], None],
    step_listeners: Sequence[StepListener] = (),
) -> Parts:
    tokens = JwtTokens(load_signing_key(Path(settings.data_dir) / KEY_FOLDER), settings.issuer)
    rules = SessionRules(
        beat_interval_ms=settings.beat_interval_ms,
        lease_ttl_ms=settings.lease_ttl_ms,
        accept_timeout_ms=settings.accept_timeout_ms,
        lost_after_ms=settings.lost_after_ms,
        hold_min_ms=settings.hold_min_ms,
        disconnected_grace_ms=settings.disconnected_grace_ms,
        max_reconnect_backoff_ms=settings.max_reconnect_backoff_ms,
    )
    mesh = Mesh(
        store, restored, rules, metrics, storage_failed, settings.commit_window_ms / 1_000, step_listeners
    )
    now_ms = time.time_ns() // 1_000_000
    credentials = Credentials(restored, mesh.commits, now_ms, settings.identity_ttl_days * 24 * 3_600_000)

    def end_session(namespace: str, agent_id: str) -> None:
        if namespace in mesh.namespaces:
            mesh.post(mesh.namespaces[namespace], RevokeAgent(None, agent_id))

    authority = Authority(
        tokens=tokens,
        credentials=credentials,
        commits=mesh.commits,
        audit=mesh.audit,
        on_agent_revoked=end_session,
    )
    enrolment = Enrolment(
        tokens=tokens,
        proofs=Ed25519Proofs(),
        credentials=credentials,
        commits=mesh.commits,
        audit=mesh.audit,
        namespace_exists=mesh.namespaces.__contains__,
    )
    admission = Admission(metrics)
    chain = Chain(
        methods=load_rules([*SERVICES, HEALTH_SERVICE_NAME, wire.REFLECTION_SERVICE_NAME]),
        authority=authority,
        audit=mesh.audit,
        settled=mesh.commits.settled,
        observer=metrics,
        report_incident=_report_incident,
        admission=admission,
        held_calls=HeldCalls(settings.max_calls_per_connection, _report_full_connection),
    )
    sessions = sum(agent.session is not None for agent in restored.agents)
    keepalive_ms = ping_interval_ms(settings.keepalive_ms, sessions)
    server = wire.new_server([chain], keepalive_ms, settings.max_calls_per_connection)
    open_calls = wire.open_calls_of_newest_server()
    streams = SessionStreams(mesh, authority)
    known = KnownTasks(store, mesh.commits)
    health = HealthService(SERVICES)
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(
        RegistryService(mesh, streams, version("agentmesh-controlplane"), keepalive_ms), server
    )
    scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server(
        SchedulerService(mesh, Submission(mesh, known, settings.max_uncommitted_mib * MIB), streams), server
    )
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(AuthService(mesh, authority, enrolment), server)
    namespace_service_pb2_grpc.add_NamespaceServiceServicer_to_server(NamespaceService(mesh), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    wire.serve_reflection(server, [*SERVICES, HEALTH_SERVICE_NAME])
    return Parts(mesh, authority, known, server, health, admission, open_calls)


@asynccontextmanager
async def _listening(
    settings: Settings, parts: Parts, metrics: Metrics, readiness: Readiness, certificate: tls.Served | None
) -> AsyncIterator[dict[str, str]]:
    """Bind all addresses, then serve; yields them by the name of their setting. Raises StartError."""
    loop = asyncio.get_running_loop()
    addresses: dict[str, str] = {}
    if settings.listen:
        addresses["listen"] = wire.listen_tcp(
            parts.server, settings.listen, partial(_pems, certificate) if certificate else None
        )
    if settings.socket:
        addresses["socket"] = wire.listen_socket(
            parts.server, settings.socket, settings.socket_mode, settings.socket_group
        )
    lag = event_loop.LoopLag()
    metrics.name(gauges.measure(parts.mesh).namespaces)
    metrics.add_gauges(
        lambda: event_loop.ask(loop, partial(gauges.measure, parts.mesh), SCRAPE_TIMEOUT_S),
        storage=parts.mesh.store.measure,
        ready=lambda: readiness.ready,
        lag_s=lambda: lag.lag_s,
        calls_waiting=lambda: parts.admission.waiting,
        certificate_expire_s=lambda: certificate.current.expire_s if certificate else None,
    )
    http = None
    try:
        if settings.http_listen:
            local = is_loopback(split_address(settings.http_listen)[0])
            http = HttpPort(
                settings.http_listen,
                pages(metrics, readiness, lag, partial(_public_keys, parts.authority)),
                None if local or certificate is None else certificate.context,
            )
            addresses["http_listen"] = http.address
        parts.mesh.begin()
        await parts.server.start()
        yield addresses
    finally:
        lag.stop()
        await parts.server.stop(0)
        if http is not None:
            await asyncio.to_thread(http.stop)


async def _take_down(parts: Parts) -> bool:
    """Refuse new calls, send agents away, make durable what is pending; False when the storage hangs."""
    calls = asyncio.create_task(parts.server.stop(CALLS_GRACE_S))
    try:
        await asyncio.wait_for(parts.mesh.shutdown(), FLUSH_GRACE_S)
    except TimeoutError:
        log.warning("the storage did not take the last changes in time; none of them was acknowledged")
        return False
    finally:
        await calls
    return True


def _say_what_was_opened(database: Path, former_revision: str | None) -> None:
    revision = REVISIONS[-1]
    if former_revision is None:
        log.info("a new database was made", file=str(database))
    elif former_revision != revision:
        copy = copy_of(database, former_revision)
        log.info("the database was upgraded", former=former_revision, revision=revision, copy=str(copy))


def _pems(certificate: tls.Served) -> wire.Certificate:
    return wire.Certificate(certificate.current.cert_pem, certificate.current.key_pem)


def _public_keys(authority: Authority) -> dict[str, Any]:
    return jwks([record.public_key for record in authority.public_keys()])


def _report_incident(incident_id: str, method: str, error: BaseException) -> None:
    log.error("a call failed inside meshd", incident=incident_id, method=method, exc_info=error)


def _report_full_connection(peer: str, places: int) -> None:
    log.warning(
        "streams, waits and watches take all places of a connection; whatever else its client calls waits there:"
        " use more connections or raise max_calls_per_connection",
        peer=peer,
        max_calls_per_connection=places,
    )


@contextmanager
def _start_errors() -> Iterator[None]:
    """Turn what a bad environment causes into StartError."""
    try:
        yield
    except (StorageError, KeyFileError) as error:
        raise StartError.because_of(error) from None


def _ended_aside(storage_failed: Callable[[StorageError], None], task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        storage_failed(
            error
            if isinstance(error, StorageError)
            else StorageError(
                f"work beside the calls failed: {error!r}; report it with this log, and start meshd again"
            )
        )


def _stopped_by(ended: asyncio.Future[int], signal_name: str) -> None:
    if not ended.done():
        log.info("meshd is told to stop", signal=signal_name)
    _resolve(ended, STOPPED)


def _nothing_to_read_again() -> None:
    log.warning("SIGHUP reads the certificate again, and none is set; to stop meshd send SIGTERM")


def _resolve(ended: asyncio.Future[int], code: int) -> None:
    if not ended.done():
        ended.set_result(code)
