"""The command meshd as a process: what a person sees who starts it wrongly."""

import os
import socket
import subprocess
import sys
from pathlib import Path

HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from meshd.__main__ import main
sys.exit(main({arguments}))
"""


def meshd(*arguments: str, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    program = HIDE.format(names=set(hidden) or "()", arguments=list(arguments))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MESHD_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
    )


def places(tmp_path: Path) -> list[str]:
    return ["--data-dir", str(tmp_path / "data"), "--socket", str(tmp_path / "s"), "--http-listen", ""]


EXTRA = ("structlog", "prometheus_client", "grpc_health", "sqlalchemy", "jwt")


def test_help_needs_none_of_the_daemons_packages() -> None:
    done = meshd("--help", hidden=("grpc", *EXTRA))
    assert done.returncode == 0
    assert "--data-dir" in done.stdout


def test_without_its_extra_it_names_the_command_that_installs_it() -> None:
    done = meshd(hidden=EXTRA)
    assert done.returncode == 2
    assert "is missing" in done.stderr
    assert "pip install '.[meshd]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_two_lines(tmp_path: Path) -> None:
    done = meshd("--listen", "0.0.0.0:7600")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "meshd: listen 0.0.0.0:7600 is not loopback and would be served without TLS",
        "  next: set tls_cert and tls_key, or listen on 127.0.0.1; --insecure allows it all the same",
    ]


def test_a_port_in_use_is_told_without_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        done = meshd(*places(tmp_path), "--listen", address)
    assert done.returncode == 2
    assert f"meshd: listen {address}: another process has this port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    done = meshd(*places(tmp_path), "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert str(tmp_path / "data") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_certificate_is_told(tmp_path: Path) -> None:
    done = meshd(*places(tmp_path), "--tls-cert", "/no/cert.pem", "--tls-key", "/no/key.pem")
    assert done.returncode == 2
    assert "tls_cert /no/cert.pem cannot be read" in done.stderr
