"""Turns a failed call into a `Problem`: what was wrong, the next step, the exit code.

Rule: decisions are made by the error's class and reason, never by its text.
"""

from __future__ import annotations

import os
import socket

import click

from agentmesh import errors
from agentmesh.connection import SYSTEM_SOCKET, Target, existing_socket
from meshctl.fields import as_typed
from meshctl.problems import ExitCode, Problem

# Along the class tree of agentmesh.errors: the first that matches decides.
_EXIT_CODES: tuple[tuple[type[errors.MeshError], ExitCode], ...] = (
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.NotAuthenticated, ExitCode.NOT_ALLOWED),
    (errors.AccessDenied, ExitCode.NOT_ALLOWED),
    (errors.TooLarge, ExitCode.USAGE),
    (errors.Refused, ExitCode.UNREACHABLE),
    (errors.Unreachable, ExitCode.UNREACHABLE),
    (errors.WaitTimeout, ExitCode.TIMED_OUT),
    (errors.InternalError, ExitCode.BUG),
    (errors.MeshError, ExitCode.USAGE),
)

_ANOTHER_ONE = "ask an operator for a fresh one: meshctl auth --operator --subject NAME, or --agent-id ID --agent-type TYPE"
_LOGIN_HELPS = frozenset(("TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED"))

_NEXT_STEPS = {
    "TOO_LARGE": "send less, or split the input into several tasks",
    "NAMESPACE_NOT_FOUND": "see those that exist: meshctl namespace list",
    "NAMESPACE_EXISTS": "look at it: meshctl namespace get NAME",
    "AGENT_NOT_FOUND": "see those that exist: meshctl agent list",
    "TASK_NOT_FOUND": "see the newest ones: meshctl task list",
    "TASK_EXISTS": "choose another --task-id, or look at the first one: meshctl task get TASK_ID",
    "INVALID_PAGE_TOKEN": "run the command again",
    "TOKEN_MISSING": 'on meshd\'s host name the socket that its line "meshd ready" shows: --address unix:/path; '
    "elsewhere log in: meshctl login",
    "TOKEN_INVALID": _ANOTHER_ONE,
    "TOKEN_EXPIRED": _ANOTHER_ONE,
    "TOKEN_REVOKED": "ask an operator why it was taken away; without a token the operator socket is used",
    "JOIN_TOKEN_INVALID": "create a new one: meshctl token join-token --agent-id ID --agent-type TYPE",
    "ACCESS_DENIED": "see what the token may do: meshctl token introspect",
    "NAMESPACE_MISMATCH": "leave out --namespace, or use a token of that namespace or an operator's",
    "IDENTITY_MISMATCH": "use that agent's own token, or the operator socket on meshd's host",
    "GRANT_EXCEEDS_CALLER": "ask for less, or let an operator grant it",
    "STORAGE_LOW": "free disk space on meshd's host; results and cancels still work",
    "SHUTTING_DOWN": "run the command again in a few seconds",
    "METHOD_NOT_FOUND": "meshd is older than meshctl: compare them with meshctl version",
}


def problem_of(error: errors.MeshError, target: Target, profile: str = "") -> Problem:
    """Returns the problem to tell the user about a failed call to `target`, which that profile named, if any."""
    if isinstance(error, errors.Unreachable) and not error.reason:
        return _unreachable(error, target)
    if isinstance(error, errors.NotAuthenticated) and not error.reason and target.uses_tls:
        return _server_not_proven(error, target)
    if error.reason == "METHOD_NOT_FOUND" or error.code == "UNIMPLEMENTED":
        return Problem(str(error), _NEXT_STEPS["METHOD_NOT_FOUND"], ExitCode.UNREACHABLE, "METHOD_NOT_FOUND")
    code = next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    if profile and error.reason in _LOGIN_HELPS:
        next_step = f"log in with a fresh token: meshctl login --profile {profile}{_from_the_socket()}"
    elif profile and error.reason == "TOKEN_REVOKED":
        next_step = f"if you may have a fresh one: meshctl login --profile {profile}{_from_the_socket()}"
    else:
        next_step = _next_step(error)
    # What meshd says is for programs, which send metadata.
    what = (
        f"meshd at {target.address} asks for a token" if error.reason == "TOKEN_MISSING" else as_typed(error)
    )
    return Problem(what, next_step, code, error.reason)


def _next_step(error: errors.MeshError) -> str:
    if error.reason in _NEXT_STEPS:
        return _NEXT_STEPS[error.reason]
    if error.retry_after_s is not None:
        return f"run the command again in {error.retry_after_s:.1f} s"
    if isinstance(error, errors.InternalError):
        return "look for it in meshd's log, and report it"
    context = click.get_current_context(silent=True)
    return f"{context.command_path if context else 'meshctl'} --help"


def _from_the_socket() -> str:
    """Where a fresh token comes from, if this is meshd's host: a profile in use hides the operator socket."""
    socket_here = existing_socket(os.environ)
    if socket_here is None:
        return ""
    return f"; this host's socket issues it: meshctl auth --operator --subject NAME --address {socket_here}"


def _server_not_proven(error: errors.NotAuthenticated, target: Target) -> Problem:
    """It was gRPC that refused, not meshd: as a rule the certificate is good, but for another host."""
    from meshctl import local_checks

    found, usable = local_checks.certificate(target)
    if not usable:
        return Problem(found.result, found.next_step, ExitCode.UNREACHABLE)
    return Problem(
        f"whatever answers at {target.address} is no meshd: {error.message}",
        "check the address, and what stands between here and meshd",
        ExitCode.UNREACHABLE,
    )


def _unreachable(error: errors.Unreachable, target: Target) -> Problem:
    if error.code == "DEADLINE_EXCEEDED":
        return Problem(
            f"meshd at {target.address} did not answer in time",
            "look at it there: systemctl status meshd, or its log",
            ExitCode.UNREACHABLE,
        )
    path = target.address.removeprefix("unix:")
    if target.is_socket and _may_not_use(path):
        return Problem(
            f"you may not use the operator socket {path}",
            "join the group that owns it, or use a token: --address 127.0.0.1:7600 and AGENTMESH_TOKEN",
            ExitCode.NOT_ALLOWED,
        )
    host = target.address.rpartition(":")[0].strip("[]")
    if not target.is_socket and not _resolves(host):
        return Problem(
            f"the name {host} does not resolve",
            "check how it is written and this host's DNS, or use an IP address: --address 10.0.0.7:7600",
            ExitCode.UNREACHABLE,
        )
    from meshctl import local_checks

    if not target.is_socket and local_checks.connects(target).state == "ok":
        found, usable = local_checks.certificate(target)
        if not usable:
            return Problem(found.result, found.next_step, ExitCode.UNREACHABLE)
    return Problem(f"no meshd answers at {target.address}", _start_or_look(target), ExitCode.UNREACHABLE)


def _start_or_look(target: Target) -> str:
    """A meshd that is started here must not pass for the one that was meant: it would be another mesh, and empty."""
    if target.is_socket and target.address.removeprefix("unix:") == SYSTEM_SOCKET:
        return "start it: systemctl start meshd, and see its log: journalctl -u meshd"
    if target.is_socket or target.is_loopback:
        return "start one here: meshd   or name another: --address unix:/path or host:port"
    return "look at it there: systemctl status meshd, its setting listen, and what stands between; or name another: --address"


def _may_not_use(path: str) -> bool:
    """True when it is permission that is missing, for the socket or on the way to it."""
    try:
        os.stat(path)  # noqa: PTH116 - Path hides on some Pythons what is asked here
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK | os.W_OK)


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True
