"""The contract with its comments: what buf makes of proto/, by the names of the contract."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

PACKAGE = "agentmesh.v1"
_Field = FieldDescriptorProto


class Contract(NamedTuple):
    """Files of the package, and the comment of each element by its full name."""

    files: tuple[FileDescriptorProto, ...]
    comments: dict[str, str]

    def messages(self) -> Iterator[tuple[str, DescriptorProto]]:
        """Yield every message with its name, in the order of the files."""
        for file in self.files:
            for message in file.message_type:
                yield message.name, message

    def enums(self) -> Iterator[EnumDescriptorProto]:
        """Yield every enum, in the order of the files."""
        for file in self.files:
            yield from file.enum_type

    def about(self, *names: str) -> str:
        """Return the comment of an element on one line, named from the outside in."""
        return self.comments[".".join(names)]


@cache
def read() -> Contract:
    """Return the contract as it stands in proto/."""
    house = Path(__file__).resolve().parents[2]
    command: list[str | Path] = [
        Path(sys.executable).parent / "buf",
        "build",
        "--as-file-descriptor-set",
        "--output",
        "-",
    ]
    built = subprocess.run(command, cwd=house, check=True, capture_output=True).stdout
    files = tuple(file for file in FileDescriptorSet.FromString(built).file if file.package == PACKAGE)
    comments: dict[str, str] = {}
    for file in files:
        for location in file.source_code_info.location:
            name = _name(file, list(location.path))
            if name:
                comments[name] = " ".join(location.leading_comments.split())
    return Contract(files, comments)


def _name(file: FileDescriptorProto, path: list[int]) -> str:
    """Return the name of what a path of the source info leads to; empty for anything without one of its own."""
    names: list[str] = []
    here: object = file
    while path:
        if len(path) == 1:
            return ""
        number, index = path[0], path[1]
        known = here.DESCRIPTOR.fields_by_number[number]  # type: ignore[attr-defined]
        if not known.is_repeated or known.message_type is None:
            return ""
        here = getattr(here, known.name)[index]
        if not hasattr(here, "name"):
            return ""
        names.append(here.name)
        path = path[2:]
    return ".".join(names)


_SCALARS = {
    _Field.TYPE_BOOL: "bool",
    _Field.TYPE_BYTES: "bytes",
    _Field.TYPE_DOUBLE: "double",
    _Field.TYPE_INT32: "int32",
    _Field.TYPE_INT64: "int64",
    _Field.TYPE_STRING: "string",
}


def type_name(field: FieldDescriptorProto) -> str:
    """Return a field's type without package and label: a scalar's, message's or enum's name."""
    return field.type_name.rpartition(".")[2] or _SCALARS[field.type]
