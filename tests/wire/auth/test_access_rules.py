"""Rules from descriptors: every method has one, and what has none does not start."""

from typing import Any

import grpc_reflection.v1alpha.reflection_pb2  # noqa: F401 - loads its descriptor
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from agentmesh.options.v1 import access_pb2
from agentmesh.v1 import (
    auth_service_pb2,
    namespace_service_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
)
from meshd.domain.access import RESOURCES, Action, Decide, Scope
from meshd.wire.access_rules import AccessRuleError, load_rules

OURS = [
    service.full_name
    for module in (auth_service_pb2, namespace_service_pb2, registry_service_pb2, scheduler_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
FOREIGN = ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]

# Written out by hand: the only methods that strangers may call.
OPEN_TO_STRANGERS = {
    "/agentmesh.v1.AuthService/Join",
    "/agentmesh.v1.AuthService/RenewToken",
    "/agentmesh.v1.AuthService/ListKeys",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
}
# Written out by hand: requests that name no namespace in the field of that name.
NAMES_NONE = {
    "IntrospectToken",
    "ListKeys",
    "ListNamespaces",
    "Heartbeat",
    "Work",
    "Check",
    "List",
    "Watch",
    "ServerReflectionInfo",
}


def test_the_whole_contract_has_rules() -> None:
    methods = load_rules([*OURS, *FOREIGN])
    assert len(OURS) == 4
    assert {path for path, served in methods.items() if served.rule.unauthenticated} == OPEN_TO_STRANGERS
    for served in methods.values():
        expected = "" if served.name in NAMES_NONE else "namespace"
        if served.name in ("GetNamespace", "CreateNamespace"):
            expected = "name"
        assert served.namespace_field == expected, served


def test_a_scope_can_name_what_each_rule_is_about() -> None:
    ours = {served.rule.resource for served in load_rules(OURS).values()}
    assert ours <= RESOURCES
    unused = {"data", "feedback", "integrations", "metrics", "policies", "results", "reviews"}
    assert ours | unused == RESOURCES


def test_a_rule_is_read_as_written() -> None:
    served = load_rules(OURS)["/agentmesh.v1.SchedulerService/Work"]
    assert served.name == "Work"
    assert served.rule == (Action.EXECUTE, "tasks", Scope.NAMESPACE, False, True, Decide.PER_FRAME)


def test_the_numbers_are_those_of_the_contract() -> None:
    for ours, theirs in ((Action, access_pb2.Action), (Scope, access_pb2.Scope), (Decide, access_pb2.Decide)):
        prefix = theirs.DESCRIPTOR.name.upper()
        known = {f"{prefix}_{member.name}": member.value for member in ours}
        assert {f"{prefix}_UNSPECIFIED": 0, **known} == dict(theirs.items())


def test_every_changing_method_is_audited() -> None:
    for path, served in load_rules(OURS).items():
        if served.rule.action is not Action.READ:
            assert served.rule.audit, path


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (None, "has no access rule"),
        (access_pb2.AccessRule(resource="tasks", scope=access_pb2.SCOPE_SELF), "names no action"),
        (access_pb2.AccessRule(resource="tasks", action=access_pb2.ACTION_READ), "names no scope"),
        (
            access_pb2.AccessRule(action=access_pb2.ACTION_READ, scope=access_pb2.SCOPE_SELF),
            "names no resource",
        ),
    ],
)
def test_a_method_without_a_usable_rule_prevents_the_start(
    monkeypatch: pytest.MonkeyPatch, option: Any, complaint: Any
) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="bad.proto", package="bad", syntax="proto3")
    file.message_type.add(name="Empty")
    method = file.service.add(name="Bad").method.add(
        name="Call", input_type=".bad.Empty", output_type=".bad.Empty"
    )
    if option is not None:
        method.options.Extensions[access_pb2.access].CopyFrom(option)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    monkeypatch.setattr("meshd.wire.access_rules.descriptor_pool.Default", lambda: pool)
    with pytest.raises(AccessRuleError, match=complaint) as caught:
        load_rules(["bad.Bad"])
    assert "/bad.Bad/Call" in str(caught.value)


def test_an_unknown_service_prevents_the_start() -> None:
    with pytest.raises(AccessRuleError, match=r"no\.Such"):
        load_rules(["no.Such"])
