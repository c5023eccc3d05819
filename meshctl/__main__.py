"""Entry point of the `meshctl` script: starts the command line, or says how to install what it needs."""

import os
import sys
from contextlib import suppress
from typing import NoReturn


def main() -> int:
    """Runs the command line with the arguments of the process and returns its exit code."""
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        sys.stderr.write(
            "error: meshctl needs packages that are not installed here.\n"
            "next:  run this in the checkout:  pip install '.[meshctl]'\n"
        )
        return 2
    try:
        from meshctl.app import run
    except KeyboardInterrupt:
        return 130

    return _leave(run())


def _leave(code: int) -> NoReturn:
    """Ends the process here: in the interpreter's own end gRPC's threads have been seen to hang, after the last line."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
