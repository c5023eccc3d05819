"""The root of the command line: its commands, and the one place where an exception becomes an exit code.

Invariant: importing this module loads click and nothing heavier; a command's module is loaded when it is run,
completed or asked for help. A test holds the short help written here against the command's own.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from meshctl.lazy_group import LazyGroup
from meshctl.options import CONTEXT, connection_options
from meshctl.problems import ExitCode, Problem
from meshctl.safe_text import printable

PROGRAM = "meshctl"

COMMANDS = {
    "deploy": (
        "meshctl.commands.deploy:deploy",
        "Make an agent known and print the environment for its process.",
    ),
    "status": ("meshctl.commands.status:status", "Show the mesh: bounds in force, namespaces and agents."),
    "execute": ("meshctl.commands.execute:execute", "Submit a task, wait for it and print its result."),
    "discover": (
        "meshctl.commands.discover:discover",
        "Find agents by type, skills, labels, free slots and health.",
    ),
    "top": ("meshctl.commands.top:top", "Show agents, slots, queues and throughput, again and again."),
    "events": ("meshctl.commands.events:events", "Write a line for every change of agents and tasks."),
    "auth": ("meshctl.commands.auth:auth", "Issue a token for an agent or an operator and print it."),
    "workload": ("meshctl.commands.workload:workload", "Show what agents hold and have done."),
    "task": ("meshctl.commands.task:task", "List, get, cancel, watch and explain tasks."),
    "agent": ("meshctl.commands.agent:agent", "List, get and revoke agents."),
    "drain": (
        "meshctl.commands.drain:drain",
        "Let agents finish what they run and give them nothing new, by id pattern, label or type.",
    ),
    "undrain": ("meshctl.commands.drain:undrain", "Lift a drain: its agents get work again."),
    "namespace": ("meshctl.commands.namespace:namespace", "Create, get and list namespaces."),
    "token": ("meshctl.commands.token:token", "Introspect and revoke tokens, create join tokens, list keys."),
    "login": (
        "meshctl.commands.login:login",
        "Log in to a mesh: check a token there and keep it in a profile.",
    ),
    "logout": (
        "meshctl.commands.login:logout",
        "Forget the token of a profile; its address stays for the next login.",
    ),
    "profile": (
        "meshctl.commands.profile:profile",
        "List, show, use and remove the profiles that `meshctl login` stored.",
    ),
    "doctor": (
        "meshctl.commands.doctor:doctor",
        "Check everything from here to a mesh at work; name a next step for each finding.",
    ),
    "audit": ("meshctl.commands.audit:audit", "Read the audit log."),
    "version": ("meshctl.commands.version:version", "Show the versions of meshctl and meshd."),
    "completion": ("meshctl.commands.completion:completion", "Print the completion script for a shell."),
    "help": (
        "meshctl.commands.help:help_command",
        "Explain a command or a topic: exit-codes, environment, connection.",
    ),
}


@click.group(
    cls=LazyGroup,
    lazy_commands=COMMANDS,
    context_settings=CONTEXT,
    epilog="Connection options go before or after the command. Topics: meshctl help exit-codes, "
    "meshctl help environment, meshctl help connection.",
)
@click.version_option(package_name="agentmesh-controlplane", prog_name=PROGRAM)
@connection_options(hidden=False)
@click.pass_context
def cli(ctx: click.Context, /, **connection: str | bool | None) -> None:
    """Command line of Agent Mesh, a control plane for fleets of agents.

    On the host of a running meshd it needs no configuration.
    """
    ctx.obj = connection


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code; failures take two lines on standard error."""
    # gRPC's core writes lines of its own about what is told in those two; set it to see them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        outcome = cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else ExitCode.DONE
    except Problem as problem:
        _report(problem.what, problem.next_step, is_error=problem.code is not ExitCode.INTERRUPTED)
        return problem.code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else PROGRAM
        _report(error.format_message(), f"{path} --help")
        return ExitCode.USAGE
    except click.ClickException as error:
        _report(error.format_message(), f"{PROGRAM} --help")
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        _report("interrupted", "run the command again when you like", is_error=False)
        return ExitCode.INTERRUPTED
    except (BrokenPipeError, SystemExit):  # click turns the first into the second
        # The interpreter flushes standard output once more at exit and would complain about the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OUTPUT_CLOSED
    except OSError as error:
        if error.filename is not None:  # not about an open stream
            return _bug(error)
        _report(
            f"the output cannot be written: {error.strerror or error}",
            "free space there, or write it elsewhere",
        )
        return ExitCode.OUTPUT_FAILED
    except Exception as error:  # noqa: BLE001 - no traceback, whatever happens
        return _bug(error)


def _bug(error: Exception) -> ExitCode:
    _report(f"unexpected {type(error).__name__}: {error}", "this is a bug in meshctl; please report it")
    return ExitCode.BUG


def _report(what: str, next_step: str, *, is_error: bool = True) -> None:
    with contextlib.suppress(OSError):
        click.echo(
            f"{'error: ' if is_error else ''}{printable(what, keep_newlines=True)}\nnext:  {printable(next_step)}",
            err=True,
        )
