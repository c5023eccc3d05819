"""The rules of all served methods, read from the descriptors of the contract.

Rule: fail closed. A served method without a rule, or with an unspecified action or scope, prevents the start and is
named; a method that is not in the result is never called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from agentmesh.options.v1 import access_pb2
from meshd.domain.access import AccessRule, Action, Decide, Scope


class AccessRuleError(Exception):
    """A served method has no usable access rule; the message names it."""


class ServedMethod(NamedTuple):
    """A method that may be called."""

    name: str
    """Short name, such as SubmitTask."""
    rule: AccessRule
    namespace_field: str
    """Field of its request that names a namespace; empty when it has none or the request is a stream."""


_PROBE = AccessRule(Action.READ, "health", Scope.SELF, unauthenticated=True)
_REFLECT = AccessRule(Action.READ, "contract", Scope.SELF)
FOREIGN_RULES: Final[dict[str, AccessRule]] = {
    "/grpc.health.v1.Health/Check": _PROBE,
    "/grpc.health.v1.Health/List": _PROBE,
    "/grpc.health.v1.Health/Watch": _PROBE,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _REFLECT,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _REFLECT,
}


def load_rules(service_names: Iterable[str]) -> dict[str, ServedMethod]:
    """Return every method of the services (full names) by its path, such as /agentmesh.v1.AuthService/Join.

    Raises AccessRuleError for a method without a rule and for a service nobody knows.
    """
    pool = descriptor_pool.Default()
    methods: dict[str, ServedMethod] = {}
    for service_name in service_names:
        try:
            service = pool.FindServiceByName(service_name)
        except KeyError:
            raise AccessRuleError(
                f"service {service_name} is served but its descriptor is not loaded"
            ) from None
        for method in service.methods:
            path = f"/{service_name}/{method.name}"
            rule = FOREIGN_RULES.get(path) or _rule_of(path, method)
            methods[path] = ServedMethod(method.name, rule, _namespace_field(method, rule))
    return methods


def _rule_of(path: str, method: MethodDescriptor) -> AccessRule:
    options = method.GetOptions()
    if not options.HasExtension(access_pb2.access):
        raise AccessRuleError(
            f"{path} has no access rule; add option (agentmesh.options.v1.access) to the method"
        )
    option = options.Extensions[access_pb2.access]
    if not option.action:
        raise AccessRuleError(f"the access rule of {path} names no action")
    if not option.scope:
        raise AccessRuleError(f"the access rule of {path} names no scope")
    if not option.resource:
        raise AccessRuleError(f"the access rule of {path} names no resource")
    return AccessRule(
        action=Action(option.action),
        resource=option.resource,
        scope=Scope(option.scope),
        unauthenticated=option.unauthenticated,
        audit=option.audit,
        decide=Decide(option.decide or Decide.OPEN),
    )


def _namespace_field(method: MethodDescriptor, rule: AccessRule) -> str:
    if method.client_streaming:
        return ""  # Its frames name the namespace; the service asks authorize_namespace.
    candidates = ("namespace", "name") if rule.resource == "namespaces" else ("namespace",)
    for candidate in candidates:
        field = method.input_type.fields_by_name.get(candidate)
        if field is not None and field.type == FieldDescriptor.TYPE_STRING:
            return candidate
    return ""
