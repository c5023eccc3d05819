"""The signals that stop an agent are its own, not its children's."""

from __future__ import annotations

import subprocess
import sys
import textwrap

FORKS = """
    import os, signal, threading
    from agentmesh.stopping import calling_on_signals

    def fork():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with calling_on_signals(lambda: print("called", flush=True)):
        fork()
        thread = threading.Thread(target=fork)  # as a sync handler does
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""


def test_a_child_by_fork_ends_by_a_signal_that_its_agent_takes_for_its_own() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(FORKS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split("\n")[:-1] == ["child -15", "child -15", "called"]
