"""The command ``meshd``: runs the daemon, or a backup or restore, and says in two lines why it cannot.

Exit codes: 0 done or stopped by a signal, 2 could not start, 3 the storage failed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Final

from meshd.config import CommandLine, Settings, StartError, load

INSTALL: Final = "pip install '.[meshd]'"
CANNOT_START: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run meshd until it is stopped; return the exit code."""
    try:
        return _do(load(sys.argv[1:] if arguments is None else arguments, os.environ))
    except StartError as error:
        _say(f"meshd: {error.what}")
        if error.next_step:
            _say(f"  next: {error.next_step}")
        return CANNOT_START
    except KeyboardInterrupt:
        return 130


def _do(line: CommandLine) -> int:
    # gRPC's core writes lines of its own about what is told in meshd's words; set it to see them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported only here, so that --help and errors in the settings need none of the daemon's packages.
    try:
        if not line.command:
            return _serve(line.settings)
        from meshd import maintenance  # noqa: PLC0415
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "meshd", "agentmesh"}:
            raise
        raise StartError(f"the package {package} is missing", f"in the checkout, run: {INSTALL}") from None
    if line.command == "backup":
        told = maintenance.backup(line.settings.data_dir, line.file)
    else:
        told = maintenance.restore(line.settings.data_dir, line.file, replace=line.replace)
    print(told)  # noqa: T201 - this is what the command is for
    return 0


def _serve(settings: Settings) -> int:
    from meshd.daemon import run  # noqa: PLC0415

    try:
        import uvloop  # noqa: PLC0415
    except ModuleNotFoundError:  # Not made for every platform; asyncio's own loop does the same, slower.
        return asyncio.run(run(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings))


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - there is no log yet


if __name__ == "__main__":
    sys.exit(main())
