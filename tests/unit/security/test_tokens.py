"""Tokens: exactly the profile, nothing that merely resembles it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType
from meshd.ports.tokens import TokenClaims
from meshd.security.keys import load_signing_key
from meshd.security.tokens import JwtTokens

NOW_MS = 1_700_000_000_000
NOW_S = NOW_MS // 1_000
CLAIMS = TokenClaims(
    "agent:blue/w-1",
    "blue",
    AgentType.WORKER,
    ("a", "b"),
    ("read:tasks",),
    "jti-1",
    "w-1.0.f",
    0,
    NOW_MS,
    NOW_MS + 3_600_000,
)


def encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


class Forge:
    """Makes tokens of any shape, signed by the true key unless told otherwise."""

    def __init__(self, directory: Any) -> None:
        self.key = load_signing_key(directory)
        self.tokens = JwtTokens(self.key, "agentmesh")
        self.good = self.tokens.sign(CLAIMS)
        header, payload, _ = self.good.split(".")
        self.header = json.loads(base64.urlsafe_b64decode(header + "=="))
        self.payload = json.loads(base64.urlsafe_b64decode(payload + "=="))

    def make(self, header: dict[str, Any] | None = None, payload: Any = None, signer: Any = None) -> str:
        head = encode(json.dumps(self.header if header is None else header).encode())
        body = encode(json.dumps(self.payload if payload is None else payload).encode())
        signing_input = f"{head}.{body}".encode()
        signature = (signer or self.key.private_key.sign)(signing_input)
        return f"{head}.{body}.{encode(signature)}"

    def reason(self, token: str) -> Reason | None:
        try:
            self.tokens.verify(token, NOW_MS)
        except Refusal as refusal:
            return None if token and token in refusal.message else refusal.reason
        return None


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path / "keys")


def test_a_good_token_says_what_was_signed(forge: Forge) -> None:
    assert forge.tokens.verify(forge.good, NOW_MS) == CLAIMS
    assert forge.reason(forge.make()) is None, "the forge itself must make good tokens"
    assert set(forge.payload) == {
        "iss",
        "aud",
        "sub",
        "ns",
        "agent_type",
        "caps",
        "scope",
        "jti",
        "fam",
        "gen",
        "iat",
        "nbf",
        "exp",
    }


def test_an_operator_token(forge: Forge) -> None:
    claims = CLAIMS._replace(subject="operator:eve", namespace="", agent_type=None, family="@eve.0.f")
    assert forge.tokens.verify(forge.tokens.sign(claims), NOW_MS) == claims


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({"exp": NOW_S + 86_400}, True),
        ({"exp": NOW_S + 86_401}, False),
        ({"fam": "@eve.3.f", "gen": 3}, True),
        ({"gen": 1}, False),
        ({"fam": "@eve.1.f"}, False),
        ({"fam": "@bob.0.f"}, False),
        ({"fam": "eve.0.f"}, False),
        ({"fam": "@.0.f", "sub": "operator:"}, False),
        ({"fam": "@eve.0.f/w-1.0.g"}, False),
        ({"ns": "blue"}, False),
        ({"agent_type": "orchestrator"}, False),
        ({"sub": "agent:blue/eve", "ns": "blue", "agent_type": "worker"}, False),
    ],
)
def test_contents_of_an_operator_token(forge: Forge, change: Any, good: bool) -> None:
    payload = {**forge.payload, "sub": "operator:eve", "ns": "", "agent_type": "", "fam": "@eve.0.f"}
    refused = forge.reason(forge.make(payload={**payload, **change}))
    assert refused is (None if good else Reason.TOKEN_INVALID)


@pytest.mark.parametrize(
    "algorithm", ["none", "nOne", "NONE", "HS256", "RS256", "ES256", "EdDSA ", "eddsa", "", None]
)
def test_other_algorithms(forge: Forge, algorithm: Any) -> None:
    public = forge.key.public_bytes
    pem = forge.key.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {**forge.header, "alg": algorithm}
    for signer in (
        None,
        lambda message: hmac.new(public, message, hashlib.sha256).digest(),
        lambda message: hmac.new(pem, message, hashlib.sha256).digest(),
        lambda message: b"",
    ):
        assert forge.reason(forge.make(header=header, signer=signer)) is Reason.TOKEN_INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"typ": None},
        {"kid": "other"},
        {"kid": ""},
        {"kid": None},
        {"kid": "../../etc/passwd"},
        {"crit": []},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}},
        {"jku": "https://example.org/keys"},
        {"x5u": "https://example.org/cert"},
        {"x5c": ["AAAA"]},
        {"cty": "JWT"},
        {"zip": "DEF"},
    ],
)
def test_other_headers(forge: Forge, change: Any) -> None:
    assert forge.reason(forge.make(header={**forge.header, **change})) is Reason.TOKEN_INVALID


@pytest.mark.parametrize("name", ["alg", "typ", "kid"])
def test_missing_headers(forge: Forge, name: Any) -> None:
    header = {key: value for key, value in forge.header.items() if key != name}
    assert forge.reason(forge.make(header=header)) is Reason.TOKEN_INVALID


@pytest.mark.parametrize(
    "claim",
    ["iss", "aud", "sub", "ns", "agent_type", "caps", "scope", "jti", "fam", "gen", "iat", "nbf", "exp"],
)
def test_each_claim_is_required_and_typed(forge: Forge, claim: Any) -> None:
    without = {key: value for key, value in forge.payload.items() if key != claim}
    assert forge.reason(forge.make(payload=without)) is Reason.TOKEN_INVALID
    names = () if claim == "jti" else ("x\0",)  # Any text is an id.
    for wrong in (*names, None, True, 1.5, {}, [1], [["x"]], [None], -1, {"a": 1}, 10**30):
        payload = {**forge.payload, claim: wrong}
        assert forge.reason(forge.make(payload=payload)) is Reason.TOKEN_INVALID, (claim, wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "somebody"},
        {"aud": "somebody"},
        {"aud": ["agentmesh"]},
        {"aud": ["agentmesh", "other"]},
        {"sub": "agent:red/w-1"},
        {"sub": "agent:blue/"},
        {"sub": "agent:blue"},
        {"sub": "agent:blue/w-1/x"},
        {"sub": "operator:eve"},
        {"sub": "w-1"},
        {"sub": ""},
        {"ns": "red"},
        {"ns": ""},
        {"agent_type": ""},
        {"agent_type": "WORKER"},
        {"agent_type": "emperor"},
        {"sub": "operator:eve", "ns": ""},
        {"sub": "operator:eve", "agent_type": ""},
        {"sub": "operator:", "ns": "", "agent_type": ""},
        {"jti": ""},
        {"fam": ""},
        {"fam": "w-2.0.f"},
        {"fam": "@w-1.f"},
        {"fam": "@w-1.0.f"},
        {"fam": "w-1.1.f"},
        {"fam": "w-1"},
        {"gen": -1},
        {"gen": 1},
        {"nbf": NOW_S - 1},
        {"extra": "claim"},
        {"exp": NOW_S + 3_601},
        {"exp": NOW_S + 10**12},
        {"exp": NOW_S, "iat": NOW_S},
        {"iat": NOW_S - 7_200},
        {"iat": NOW_S + 31, "exp": NOW_S + 100},
        {"nbf": NOW_S + 31},
        {"exp": str(NOW_S + 100)},
    ],
)
def test_other_contents(forge: Forge, change: Any) -> None:
    assert forge.reason(forge.make(payload={**forge.payload, **change})) is Reason.TOKEN_INVALID


@pytest.mark.parametrize("payload", [[], "text", 1, None, {"a": 1}, [{"exp": 1}]])
def test_payloads_that_are_no_claims(forge: Forge, payload: Any) -> None:
    assert (
        forge.reason(forge.make(payload=payload if payload is not None else "null")) is Reason.TOKEN_INVALID
    )


def test_time(forge: Forge) -> None:
    assert forge.tokens.verify(forge.good, CLAIMS.expire_ms - 1) == CLAIMS
    with pytest.raises(Refusal) as caught:
        forge.tokens.verify(forge.good, CLAIMS.expire_ms)
    assert caught.value.reason is Reason.TOKEN_EXPIRED
    assert forge.tokens.verify(forge.good, CLAIMS.expire_ms, allow_expired=True) == CLAIMS
    assert forge.tokens.verify(forge.good, NOW_MS - 30_000) == CLAIMS
    with pytest.raises(Refusal):
        forge.tokens.verify(forge.good, NOW_MS - 31_000)


def test_another_key(forge: Forge, tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    assert forge.reason(forge.make(signer=other.sign)) is Reason.TOKEN_INVALID
    other_daemon = JwtTokens(load_signing_key(tmp_path / "other"), "agentmesh")
    assert forge.reason(other_daemon.sign(CLAIMS)) is Reason.TOKEN_INVALID
    other_issuer = JwtTokens(forge.key, "othermesh")
    assert forge.reason(other_issuer.sign(CLAIMS)) is Reason.TOKEN_INVALID


def test_swapped_parts(forge: Forge) -> None:
    other = forge.tokens.sign(CLAIMS._replace(agent_type=AgentType.ORCHESTRATOR))
    header, payload, signature = forge.good.split(".")
    _, other_payload, other_signature = other.split(".")
    for token in (
        f"{header}.{other_payload}.{signature}",
        f"{header}.{payload}.{other_signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}.{signature}=",
        f"{header}.{payload}.{signature}==",
        f" {forge.good}",
        f"{forge.good} ",
        f"{forge.good}\n",
        f"{header}.{payload}.!{signature}",
        f"{header}.{payload[:10]}\n{payload[10:]}.{signature}",
        "..",
        "",
        "a.b.c",
        "é" * 10,
        "\ud800",
        forge.good * 10,
        "." * 4096,
    ):
        assert forge.reason(token) is Reason.TOKEN_INVALID, token[:80]


def test_deep_json_is_refused_without_a_crash(forge: Forge) -> None:
    deep = encode(b"[" * 2_900)
    head, _, signature = forge.good.split(".")
    assert forge.reason(f"{head}.{deep}.{signature}") is Reason.TOKEN_INVALID
    assert forge.reason(f"{deep}.{head}.{signature}") is Reason.TOKEN_INVALID


def test_oversize_is_refused_when_signing(forge: Forge) -> None:
    with pytest.raises(Refusal) as caught:
        forge.tokens.sign(
            CLAIMS._replace(capabilities=tuple(f"capability-{number:040}" for number in range(80)))
        )
    assert caught.value.field == "capabilities"
