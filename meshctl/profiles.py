"""Profiles: the meshes this user has logged in to, in one TOML file that only they can read.

Invariant: the file is replaced as a whole with mode 0600, and used only when nobody else can have read or written it.
It holds tokens, so no error repeats what stands in it, and no `repr` shows one. Whoever changes it reads it under the same
lock, so that two logins at once both count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshctl.problems import ExitCode, Problem, usage

DEFAULT_NAME = "default"
MAX_FILE_BYTES = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_LINE = re.compile(r"at line (\d+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one mesh is reached, and as whom."""

    address: str
    #: Absolute path of the PEM file; empty: none.
    ca: str = ""
    insecure: bool = False
    #: Empty after a logout.
    token: str = dataclasses.field(default="", repr=False)
    #: Whose token it is, such as operator:alice.
    subject: str = ""
    expire_time: datetime.datetime | None = None


@dataclasses.dataclass(slots=True)
class Profiles:
    """All profiles, and the name of the one in use; empty: none is."""

    by_name: dict[str, Profile] = dataclasses.field(default_factory=dict)
    active: str = ""

    def named(self, name: str) -> Profile:
        """Returns a profile. Raises Problem when there is none of that name."""
        if name not in self.by_name:
            raise Problem(
                f"there is no profile {name!r}",
                "see those that exist: meshctl profile list",
                ExitCode.NOT_FOUND,
            )
        return self.by_name[name]


def public_fields(profile: Profile) -> dict[str, Any]:
    """Returns what may be shown of a profile, for JSON: everything but its token."""
    return {
        "address": profile.address,
        "ca": profile.ca,
        "insecure": profile.insecure,
        "has_token": bool(profile.token),
        "subject": profile.subject,
        "expire_time": profile.expire_time.isoformat() if profile.expire_time else None,
    }


def file_path() -> Path:
    """Returns where the profiles are kept."""
    import platformdirs

    return platformdirs.user_config_path("agentmesh", appauthor=False) / "profiles.toml"


def checked_name(name: str) -> str:
    """Returns the name of a profile. Raises Problem when it cannot be one."""
    if not _NAME.fullmatch(name):
        raise usage(f"{name!r} cannot name a profile", "use 1 to 63 letters, digits, _ and -")
    return name


def load() -> Profiles:
    """Returns the profiles; none when nobody has logged in. Raises Problem when the file cannot be trusted or read."""
    path = file_path()
    try:
        with path.open("rb") as file:
            _refuse_shared(path, os.fstat(file.fileno()))
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return Profiles()
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise _unusable(path, f"is larger than {MAX_FILE_BYTES:,} bytes")
    try:
        return _profiles_of(path, tomllib.loads(content.decode()))
    except UnicodeDecodeError:
        raise _unusable(path, "is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        # The parser's own words may quote the line, and there may be a token in it.
        line = _LINE.search(str(error))
        raise _unusable(path, f"is not TOML{f' (line {line[1]})' if line else ''}") from None
    except RecursionError:
        raise _unusable(path, "is nested too deeply") from None


@contextlib.contextmanager
def changing() -> Iterator[Profiles]:
    """Hands over the profiles as they are now and keeps what became of them, unless the block raises.

    A crash leaves the old file or the new one. Raises Problem when it cannot be trusted, read or written.
    """
    path = file_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _not_kept(path, str(error.strerror)) from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # not the file, which is replaced
        known = load()
        yield known
        _save(path, known)
    finally:
        os.close(directory)


def _save(path: Path, profiles: Profiles) -> None:
    import tomli_w

    document = {
        "active": profiles.active,
        "profiles": {
            name: {key: value for key, value in dataclasses.asdict(profile).items() if value}
            for name, profile in sorted(profiles.by_name.items())
        },
    }
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            tomli_w.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        why = str(error.strerror) if isinstance(error, OSError) else "a path in them is not UTF-8"
        raise _not_kept(path, why) from None


def _not_kept(path: Path, why: str) -> Problem:
    return Problem(
        f"the profiles cannot be kept in {path}: {why}",
        "make its directory writable, or set XDG_CONFIG_HOME to another one",
        ExitCode.USAGE,
    )


def _refuse_shared(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise usage(f"{path} belongs to another user", "move it away and log in: meshctl login")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise usage(
            f"others on this host may use {path}, which holds tokens",
            f"chmod 600 {path}   and log in again if they may have done so",
        )


def _profiles_of(path: Path, document: dict[str, Any]) -> Profiles:
    _refuse_unknown(path, "", document, {"active", "profiles"})
    active, tables = document.get("active", ""), document.get("profiles", {})
    if not isinstance(active, str) or not isinstance(tables, dict):
        raise _unusable(path, "has an `active` that is no text, or `profiles` that are no tables")
    by_name = {name: _profile_of(path, name, table) for name, table in tables.items()}
    if active and active not in by_name:
        raise _unusable(path, f"names the profile {_shown(active)} as active, and has none of that name")
    return Profiles(by_name, active)


def _profile_of(path: Path, name: str, table: Any) -> Profile:
    where = f"profile {_shown(name)}"
    if not _NAME.fullmatch(name) or not isinstance(table, dict):
        raise _unusable(path, f"has a {where} that is no table, or no name of one")
    kinds = {"address": str, "ca": str, "insecure": bool, "token": str, "subject": str}
    _refuse_unknown(path, f"{where}: ", table, {*kinds, "expire_time"})
    for key, kind in kinds.items():
        if not isinstance(table.get(key, kind()), kind):
            raise _unusable(path, f"has a wrong kind of value for {key} in {where}")
    expire_time = table.get("expire_time")
    if expire_time is not None and not (isinstance(expire_time, datetime.datetime) and expire_time.tzinfo):
        raise _unusable(path, f"has an expire_time in {where} that is no time with its zone")
    if not table.get("address"):
        raise _unusable(path, f"has no address in {where}")
    return Profile(**table)


def _refuse_unknown(path: Path, where: str, table: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise _unusable(path, f"has an unknown key: {where}{_shown(unknown[0])}")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:40] + "…")


def _unusable(path: Path, how: str) -> Problem:
    return usage(f"{path} {how}", "mend it, or move it away and log in again: meshctl login")
