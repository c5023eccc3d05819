"""docs/reference/api.md: services, methods and messages of the contract, with comments and access rules."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from agentmesh.v1 import (  # noqa: F401 - their descriptors hold the access rules
    auth_service_pb2,
    namespace_service_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
)
from docs.generate import contract
from docs.generate.markdown import cell, table
from meshd.domain.access import AccessRule, Scope, type_allows
from meshd.domain.values import AgentType
from meshd.wire.access_rules import load_rules

HEAD = """\
# The contract

Made by `make docs` from `proto/agentmesh/v1`, comments included. The stubs for Python stand in `agentmesh/v1`;
`make stubs` makes those for Go, TypeScript and Java. [agent-protocol.md](../agent-protocol.md) tells in which order an
agent uses the calls and frames, [errors.md](errors.md) lists the reasons of refusals.

**For every call.** The token goes into the metadata as `authorization: Bearer <token>`; on the operator socket a call
without one is the local operator's. `agentmesh-namespace` in the metadata names the namespace as well as a field does;
both together must agree. No message in either direction is larger than 1 MiB, and none of Work and Heartbeat has more
than 5,000 frames. "Who may" says which agents' types the access table admits. Operators may call everything except what an
agent does for itself (RegisterAgent, DeregisterAgent, Heartbeat, Work). A token's scope can only narrow what its holder may
do. An audited call returns OK only after its audit record is durable.

meshd also serves `grpc.health.v1.Health`, without a token, and `grpc.reflection.v1.ServerReflection`.
"""


def page() -> str:
    """Return the page."""
    known = contract.read()
    services = [service for file in known.files for service in file.service]
    parts = [HEAD + "".join(f"\n- {_link(service.name)}" for service in services)]
    parts[0] += "\n- [Messages](#messages)\n- [Enums](#enums)\n"
    own = set(_own_messages(services))
    for service in services:
        parts += [f"## {service.name}\n\n{known.about(service.name)}\n"]
        parts += [_method(service, method) for method in service.method]
    parts.append("## Messages\n")
    parts += [_message(name, message, "###") for name, message in known.messages() if name not in own]
    parts.append("## Enums\n")
    parts += [_enum(enum) for enum in known.enums()]
    return "\n".join(parts)


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _own_messages(services: Iterable[ServiceDescriptorProto]) -> Iterator[str]:
    for service in services:
        for method in service.method:
            yield from (_short(method.input_type), _short(method.output_type))


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _method(service: ServiceDescriptorProto, method: MethodDescriptorProto) -> str:
    known = contract.read()
    messages = dict(known.messages())
    rule = load_rules([f"{contract.PACKAGE}.{service.name}"])[
        f"/{contract.PACKAGE}.{service.name}/{method.name}"
    ].rule
    up = "stream " * method.client_streaming + _short(method.input_type)
    down = "stream " * method.server_streaming + _short(method.output_type)
    parts = [
        f"### {method.name}\n\n```text\n{method.name}({up}) returns ({down})\n```\n",
        known.about(service.name, method.name) + "\n",
        f"- Rule: {rule.action.name.lower()} {rule.resource}, scope {rule.scope.name}",
        f"- Who may: {_who(rule)}",
        f"- Audited: {'yes' if rule.audit else 'no'}\n",
    ]
    parts += [
        _message(name, messages[name], "") for name in map(_short, (method.input_type, method.output_type))
    ]
    return "\n".join(parts)


def _who(rule: AccessRule) -> str:
    if rule.unauthenticated:
        return "everybody; no token is needed"
    if rule.scope is Scope.MESH:
        return "operators"
    if rule.scope is Scope.SELF:
        return "every agent, for itself and in its own namespace"
    action = rule.action.name.lower()
    return ", ".join(each.name.lower() for each in AgentType if type_allows(each, action, rule.resource))


def _message(name: str, message: DescriptorProto, heading: str) -> str:
    known = contract.read()
    title = f"{heading} {name}\n\n{known.about(name)}\n" if heading else _own_title(name, known.about(name))
    if not message.field:
        return title
    rows = [
        [
            f"`{field.name}`",
            str(field.number),
            _type(message, field),
            cell(_group(message, field) + known.about(name, field.name)),
        ]
        for field in message.field
    ]
    return title + "\n" + table(["Field", "No.", "Type", "Meaning"], rows)


def _own_title(name: str, comment: str) -> str:
    """Return the line above the fields of a request or response, without a comment that only repeats its name."""
    words = re.sub(r"^(Request|Response) of \w+[.;]? ?", "", comment)
    return f"`{name}`" + (f": {words[0].upper()}{words[1:]}" if words else "") + "\n"


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    entry = next((nested for nested in message.nested_type if nested.name == _short(field.type_name)), None)
    if entry is not None:
        return f"map of {_type(entry, entry.field[0])} to {_type(entry, entry.field[1])}"
    name = contract.type_name(field)
    ours = field.type_name.startswith(f".{contract.PACKAGE}.")
    shown = _link(name) if ours else name
    return ("list of " if field.label == field.LABEL_REPEATED else "") + shown


def _group(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    if field.proto3_optional:
        return "Optional. "
    return f"One of `{message.oneof_decl[field.oneof_index].name}`. " if field.HasField("oneof_index") else ""


def _enum(enum: EnumDescriptorProto) -> str:
    known = contract.read()
    rows = [
        [f"`{value.name}`", str(value.number), cell(known.about(enum.name, value.name))]
        for value in enum.value
    ]
    return f"### {enum.name}\n\n{known.about(enum.name)}\n\n" + table(["Value", "No.", "Meaning"], rows)


if __name__ == "__main__":
    sys.stdout.write(page())
