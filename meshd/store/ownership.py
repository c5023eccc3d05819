"""Whose the files of a data directory are, for restores made as root and for errors that speak of permissions.

Rule: only root gives files away, and only to the owner of the directory in which they stand.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path


def give_to_owner(file: Path, directory: Path) -> None:
    """Give a file that root made to whoever runs meshd on the directory. Raises OSError."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


def barred(*files: Path) -> str:
    """Return whose the first file is that this user may not write, and the next step; empty if there is none."""
    for file in files:
        try:
            found = file.stat()
        except PermissionError:
            return barred(file.parent)
        except OSError:
            continue
        if not os.access(file, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            owner = _name(found.st_uid)
            step = f"run this as {owner}, or give it to the user that runs meshd: chown USER {file}"
            if found.st_uid == os.geteuid():
                step = f"chmod u+rw {file}"
            return f"{file} belongs to {owner}, mode {stat.S_IMODE(found.st_mode):04o}; {step}"
    return ""


def _name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"
