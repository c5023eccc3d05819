"""Entry point of the `meshctl` script: starts the command line, or says how to install what it needs."""

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn


def main() -> int:
    """Runs the command line with the arguments of the process and returns its exit code."""
    try:
        return _main()
    except KeyboardInterrupt:  # before a command runs
        return 130


def _main() -> int:
    _prepare_streams()
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        sys.stderr.write(
            "error: meshctl needs packages that are not installed here.\n"
            "next:  run this in the checkout:  pip install '.[meshctl]'\n"
        )
        return 2
    from meshctl.app import run

    return _leave(run())


def _prepare_streams() -> None:
    """Gives the process the streams that its caller closed: else the next file or socket takes a stream's number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - open until the process ends
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.RawIOBase):
            # Under PYTHONUNBUFFERED nothing would go on with what the system took only in part, as on a full disk.
            encoding = stream.encoding
            buffered = io.BufferedWriter(stream.detach())
            stream = io.TextIOWrapper(buffered, encoding, line_buffering=True)
            setattr(sys, name, stream)
        # What the terminal's encoding lacks is written as an escape; in JSON that is the same character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave(code: int) -> NoReturn:
    """Ends the process here: in the interpreter's own end gRPC's threads have been seen to hang, after the last line."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
