"""The interceptor chain: everything that happens around every call, in one place.

Order: admission, deadline, who calls, what they ask, may they, does the disk keep up, the handler, was it audited, what it
answers. A request is not read before it is known who calls: so gRPC is given handlers that read by themselves, for all
methods. Only this file turns refusals into statuses, and no text of any other exception ever reaches a caller. A method
that has no rule is not called.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

import grpc
import grpc.aio

from meshd.domain.access import ANONYMOUS, LOCAL_OPERATOR, Call, decide
from meshd.domain.errors import Reason, Refusal
from meshd.engine.audit import AuditLog
from meshd.engine.authority import Authority
from meshd.ports.observer import Observer
from meshd.wire.access_rules import ServedMethod
from meshd.wire.admission import Admission
from meshd.wire.arriving import Arriving
from meshd.wire.context import set_current_call
from meshd.wire.held_calls import LASTING, HeldCalls
from meshd.wire.status import CODES, to_status, trailing_metadata

Context = grpc.aio.ServicerContext[Any, Any]
Respond = Callable[[Call, Any, Context], Awaitable[Any]]

TOKEN_KEY: Final = "authorization"  # noqa: S105 - a key of the metadata
NAMESPACE_KEY: Final = "agentmesh-namespace"
SOCKET_PEER: Final = "socket"

DENIALS: Final = frozenset(
    {
        Reason.TOKEN_MISSING,
        Reason.TOKEN_INVALID,
        Reason.TOKEN_EXPIRED,
        Reason.TOKEN_REVOKED,
        Reason.JOIN_TOKEN_INVALID,
        Reason.PROOF_INVALID,
        Reason.ACCESS_DENIED,
        Reason.NAMESPACE_MISMATCH,
        Reason.IDENTITY_MISMATCH,
        Reason.GRANT_EXCEEDS_CALLER,
    }
)
"""Refusals that the audit log counts."""

OF_NO_STATE: Final = frozenset({Reason.OVERLOADED, Reason.STORAGE_LOW, Reason.SHUTTING_DOWN})
"""Refusals that speak of no state, so they need not wait for a disk that lags behind, or hangs."""


class ReportIncident(Protocol):
    """Logs an exception that nobody expected, under the id that its caller is told."""

    def __call__(self, incident_id: str, method: str, error: BaseException) -> None:
        """Log it; never raises."""


class Chain(grpc.aio.ServerInterceptor):
    """The one interceptor of the server."""

    def __init__(
        self,
        *,
        methods: dict[str, ServedMethod],
        authority: Authority,
        audit: AuditLog,
        settled: Callable[[], Awaitable[None]],
        observer: Observer,
        report_incident: ReportIncident,
        admission: Admission,
        held_calls: HeldCalls,
    ) -> None:
        self._methods = methods
        self._authority = authority
        self._audit = audit
        self._settled = settled
        self._observer = observer
        self._report_incident = report_incident
        self._admission = admission
        self._held_calls = held_calls
        self._arriving = Arriving()
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._refusing: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        """What takes their place under overload, for the methods whose calls may be refused then."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the method's handler with the chain around it, made once per method."""
        path = handler_call_details.method
        handler = self._handlers.get(path)
        if handler is None:
            inner = await continuation(handler_call_details)
            served = self._methods.get(path)
            if inner is None or served is None:
                return self._unknown_method()
            handler = self._handlers[path] = self._wrap(served, inner)
            if not inner.request_streaming and not inner.response_streaming:
                made = self._admission.refusing(served.name, served.rule)
                if made is not None:
                    self._refusing[path] = made
        refusing = self._refusing.get(path)
        if self._admission.refuses(spared=refusing is None) and refusing is not None:
            return refusing
        return handler

    def _wrap(
        self, served: ServedMethod, inner: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        parse = _refusing_parser(inner.request_deserializer)
        behavior: Any
        if inner.request_streaming:
            behavior = inner.stream_stream if inner.response_streaming else inner.stream_unary
        else:
            behavior = inner.unary_stream if inner.response_streaming else inner.unary_unary
        respond = self._streaming(behavior) if inner.response_streaming else self._replying(behavior)
        reads = None if inner.request_streaming else parse

        async def handle(requests: Any, context: Context) -> Any:
            with self._admission:
                return await self._handle(served, reads, respond, requests, context)

        async def handle_lasting(requests: Any, context: Context) -> Any:
            with self._held_calls.on(context.peer()):
                return await handle(requests, context)

        lasts = inner.response_streaming or served.name in LASTING

        # A request of one message is read and parsed after authentication; messages of a stream are parsed by gRPC.
        deserialize = parse if inner.request_streaming else None
        serialize = (
            _encoded_or(inner.response_serializer) if inner.response_streaming else inner.response_serializer
        )
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if inner.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return cast(
            "grpc.RpcMethodHandler[Any, Any]",
            make(handle_lasting if lasts else handle, deserialize, serialize),
        )

    async def _handle(
        self,
        served: ServedMethod,
        parse: Callable[[bytes], Any] | None,
        respond: Respond,
        requests: Any,
        context: Context,
    ) -> Any:
        start = time.perf_counter()
        code = "CANCELLED"
        call = Call(ANONYMOUS, served.name, "", served.rule)
        call.check_not_revoked = self._authority.check_caller
        call.revocation_epoch = self._authority.revocation_epoch
        try:
            # The stubs do not know that it may be None.
            left_s: float | None = cast("Any", context).time_remaining()
            if left_s is not None and left_s <= 0:
                code = "DEADLINE_EXCEEDED"
                await context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline had passed when the call arrived"
                )
            routed = self._identify(call, context)
            if parse is None:
                request = requests
            else:
                raw = await self._arriving.request(context)
                self._authority.check_caller(call)  # It may have been long on its way.
                start = time.perf_counter()
                request = parse(raw)
            self._authorize(call, served, request, routed)
            if served.rule.audit and parse is not None:
                # No stream: those carry signs of life, which wait for no disk.
                self._audit.admit()
            set_current_call(call)
            reply = await respond(call, request, context)
            if served.rule.audit and not call.audited:
                raise RuntimeError(f"{served.name} succeeded without an audit record")
            code = "OK"
            return reply
        except Refusal as refusal:
            code = CODES[refusal.reason].name
            await self._refuse(call, refusal, context)
        except grpc.aio.AbortError:  # Foreign services abort by themselves.
            code = _code_name(context)
            raise
        except grpc.aio.InternalError:
            # A write found out that the call is over before gRPC ended its handler, which it does in this way.
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001 - nothing of a bug may reach the caller
            code = "INTERNAL"
            await self._fail(call, error, context)
        finally:
            self._observer.handled(served.name, code, time.perf_counter() - start)

    def _identify(self, call: Call, context: Context) -> str:
        """Find the principal; returns the namespace of the metadata."""
        bearer = None
        routed = ""
        for key, value in context.invocation_metadata() or ():
            if key == TOKEN_KEY:
                if bearer is not None:
                    raise Refusal(Reason.TOKEN_INVALID, "the call carries two tokens; send one")
                bearer = value
            elif key == NAMESPACE_KEY:
                routed = str(value)
        peer = context.peer()
        via_socket = peer.startswith("unix:")
        call.peer = SOCKET_PEER if via_socket else host_of(peer)
        if bearer is None:
            if via_socket:
                call.principal = LOCAL_OPERATOR
            # Strangers are refused before anything of theirs is read.
            decide(call.principal, call.rule, "")
        elif not call.rule.unauthenticated:
            call.principal = self._authority.authenticate(_token_of(bearer), via_socket=via_socket)
        return routed

    def _authorize(self, call: Call, served: ServedMethod, request: Any, routed: str) -> None:
        named = getattr(request, served.namespace_field) if served.namespace_field else ""
        if routed and named and routed != named:
            message = (
                f"the metadata '{NAMESPACE_KEY}' and the request name different namespaces; send one of them"
            )
            raise Refusal(Reason.NAMESPACE_MISMATCH, message, field=served.namespace_field)
        named = named or routed
        call.namespace = named or call.principal.namespace
        decide(call.principal, call.rule, named)

    def _replying(self, behavior: Callable[[Any, Context], Awaitable[Any]]) -> Respond:
        async def respond(call: Call, request: Any, context: Context) -> Any:
            reply = await behavior(request, context)
            self._authority.check_caller(call)  # A long wait must not outlive its token.
            return reply

        return respond

    def _streaming(self, behavior: Callable[[Any, Context], Any]) -> Respond:
        async def respond(call: Call, request: Any, context: Context) -> None:
            with self._authority.stream(call):
                replies = behavior(request, context)
                if not hasattr(replies, "__aiter__"):
                    await replies
                    return
                async with aclosing(cast("Any", replies)):
                    async for reply in cast("AsyncIterator[Any]", replies):
                        if call.rule.audit and not call.audited:
                            raise RuntimeError(f"{call.method} answered without an audit record")
                        await context.write(reply)

        return respond

    async def _refuse(self, call: Call, refusal: Refusal, context: Context) -> None:
        self._observer.refused(refusal.reason.name)
        if refusal.reason in DENIALS:
            self._audit.deny(call, refusal.reason.name)
        if refusal.reason not in OF_NO_STATE:
            try:
                await self._settled()  # A refusal may speak of state that is not durable yet.
            except Refusal as newer:
                refusal = newer
        _end(refusal, context)

    async def _fail(self, call: Call, error: Exception, context: Context) -> None:
        incident_id = secrets.token_hex(8)
        self._report_incident(incident_id, call.method, error)
        message = f"the daemon failed on this call; its log explains incident {incident_id}"
        _end(Refusal(Reason.INTERNAL, message, metadata={"incident": incident_id}), context)

    def _unknown_method(self) -> grpc.RpcMethodHandler[Any, Any]:
        async def refuse(_requests: Any, context: Context) -> None:
            self._observer.handled("unknown", "UNIMPLEMENTED", 0.0)
            _end(Refusal(Reason.METHOD_NOT_FOUND, "this daemon has no such method"), context)

        return grpc.stream_stream_rpc_method_handler(cast("Any", refuse))


def host_of(peer: str) -> str:
    """Return the address of a peer as gRPC names it, ``ipv4:192.0.2.1:4711`` or ``ipv6:%5B2001:db8::1%5D:4711``."""
    return unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]")


def _token_of(bearer: str | bytes) -> str:
    scheme, _, token = str(bearer).partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refusal(Reason.TOKEN_INVALID, "the metadata 'authorization' must read 'Bearer <token>'")
    return token


def _refusing_parser(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def parse(raw: bytes) -> Any:
        if deserialize is None:
            return raw
        try:
            return deserialize(raw)
        except Exception:  # noqa: BLE001 - whatever a parser raises on hostile bytes
            message = "the message cannot be parsed; compare the contract's version of both sides"
            raise Refusal(Reason.INVALID_ARGUMENT, message) from None

    return parse


def _encoded_or(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Let through what a stream encoded for many at once."""

    def encoded(message: Any) -> bytes:
        return message if serialize is None or type(message) is bytes else serialize(message)

    return encoded


def _code_name(context: Context) -> str:
    code: Any = context.code()  # A number once a status was sent, whatever the stubs say.
    return next((known.name for known in grpc.StatusCode if code in (known, known.value[0])), "UNKNOWN")


def _end(refusal: Refusal, context: Context) -> None:
    """Let the call end by a refusal once its handler returns.

    Not by ``abort``: gRPC keeps what that raises with the call, so that they would hold each other, forty objects in cycles.
    """
    status = to_status(refusal)
    context.set_code(CODES[refusal.reason])
    context.set_details(status.message)
    context.set_trailing_metadata(trailing_metadata(status))
