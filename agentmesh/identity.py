"""Who an agent is: its key, kept in the state directory, and the tokens it gets for it.

Rule: the key is made once and never leaves its file (mode 0600). A token is renewed by proving possession of the key,
before or after the old one expired; joining is needed only while the mesh does not know the key. Lifetimes are taken
from the token itself and run on the monotonic clock, so that a wrong wall clock here costs nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentmesh.backoff import Clock
from agentmesh.errors import ConfigurationError, MeshError, NotAuthenticated, NotFound
from agentmesh.link import Link
from agentmesh.v1.agent_pb2 import AgentType
from agentmesh.v1.auth_service_pb2 import JoinRequest, RenewTokenRequest

KEY_FILE = "agent.key"
_RENEW_AT_SHARE = 0.8
#: For tokens whose lifetime cannot be read: a tenth of the longest the mesh issues.
_UNKNOWN_LIFETIME_S = 360.0
_PROOF_DOMAIN = b"agentmesh-renew-v1"


def state_directory(
    namespace: str,
    agent_id: str,
    base: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """Where an agent keeps its key: `base`, AGENTMESH_STATE_DIR or the user's state directory, per agent."""
    root = base or environ.get("AGENTMESH_STATE_DIR")
    if not root:
        state_home = environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
        root = Path(state_home) / "agentmesh"
    return Path(root).expanduser() / namespace / agent_id


def load_or_create_key(directory: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The key in `directory`, and whether it was made just now. Raises ConfigurationError when it cannot be used."""
    path = directory / KEY_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return _read_key(path), False
        except FileNotFoundError:
            pass
        # Written aside and linked into place: of two processes that start at once, both end up with one whole key.
        key = Ed25519PrivateKey.generate()
        draft = path.with_name(f"{KEY_FILE}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return _read_key(path), False
        finally:
            draft.unlink()
        return key, True
    except OSError as error:
        raise ConfigurationError(
            f"the agent's key cannot be kept in {directory}: {error.strerror}; name another AGENTMESH_STATE_DIR"
        ) from error


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} holds no Ed25519 key: remove it and join anew")
    return key


def lifetime_s(token: str) -> float:
    """How long a token lasts from its issue, as it says itself."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return max(0.0, float(claims["exp"]) - float(claims["iat"]))
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return _UNKNOWN_LIFETIME_S


class Identity:
    """The agent's current token and how it comes to the next one. Lives on the gRPC thread."""

    def __init__(
        self,
        namespace: str,
        agent_id: str,
        type: AgentType.ValueType,
        capabilities: Sequence[str],
        directory: Path,
        clock: Clock,
        *,
        given_token: str | None = None,
        join_token: str | None = None,
        on_socket: bool = False,
    ) -> None:
        self._namespace = namespace
        self._agent_id = agent_id
        self._type = type
        self._capabilities = capabilities
        self._directory = directory
        self._clock = clock
        self._join_token = join_token
        #: A token given from outside is used as it is and cannot be renewed.
        self.is_given = given_token is not None
        #: True while this process reaches the mesh by the operator socket.
        self.on_socket = on_socket
        self._token = given_token or ""
        self._renew_at_s = float("inf") if self.is_given else float("-inf")
        self._key: Ed25519PrivateKey | None = None
        self._lock = asyncio.Lock()

    @property
    def can_join(self) -> bool:
        """True when this process may join: it has a join token, or reaches the operator socket."""
        return bool(self._join_token) or self.on_socket

    @property
    def current(self) -> str:
        """The newest token; empty before the first."""
        return self._token

    def renew_in_s(self) -> float:
        """Seconds until the token should be renewed; infinite for a given one."""
        return self._renew_at_s - self._clock.monotonic()

    async def token(self, link: Link) -> str:
        """A token that is good for now, renewed if it is due."""
        if self.renew_in_s() <= 0:
            await self.renew(link, self._token)
        return self._token

    async def renew(self, link: Link, stale: str) -> str:
        """Replaces the token `stale`, by key or by joining. Raises NotAuthenticated when neither is accepted."""
        async with self._lock:
            if self._token != stale:
                return self._token  # renewed meanwhile
            key, is_new = self._own_key()
            if is_new:
                return await self._join(link, key, None)
            try:
                return await self._renew_by_key(link, key)
            except (NotAuthenticated, NotFound) as error:
                return await self._join(link, key, error)

    def expire(self) -> None:
        """The mesh refused the token: the next call renews it. A given token stays as it is."""
        if not self.is_given:
            self._renew_at_s = float("-inf")

    def given_token_refused(self, cause: NotAuthenticated) -> NotAuthenticated:
        """What to say when a given token is not accepted: the mesh's own words are about one that can be renewed."""
        return NotAuthenticated(
            f"the token that was given to agent {self._namespace}/{self._agent_id} is not accepted "
            f"({cause.reason or cause.message}) and cannot be renewed: give it a new one, or instead a join token in "
            "AGENTMESH_JOIN_TOKEN, by which it gets tokens of its own",
            reason=cause.reason,
            code=cause.code,
        )

    async def rejoin(self, link: Link) -> str:
        """Joins anew, for a token that allows what the present one does not."""
        async with self._lock:
            return await self._join(link, self._own_key()[0], None)

    def _own_key(self) -> tuple[Ed25519PrivateKey, bool]:
        if self._key is not None:
            return self._key, False
        self._key, is_new = load_or_create_key(self._directory)
        return self._key, is_new

    async def _renew_by_key(self, link: Link, key: Ed25519PrivateKey) -> str:
        request = RenewTokenRequest(namespace=self._namespace, agent_id=self._agent_id)
        answer = await link.renew_token(request)
        if answer.WhichOneof("result") == "nonce":
            request.nonce = answer.nonce
            request.signature = key.sign(proof_message(self._namespace, self._agent_id, answer.nonce))
            answer = await link.renew_token(request)
        return self._accept(answer.token.value)

    async def _join(self, link: Link, key: Ed25519PrivateKey, cause: MeshError | None) -> str:
        if not self.can_join:
            why = (
                f"the mesh does not accept its key ({cause.message})"
                if cause
                else "the mesh does not know it yet"
            )
            raise NotAuthenticated(
                f"agent {self._namespace}/{self._agent_id} has no token and {why}: "
                "create a join token with `meshctl deploy` and pass it in AGENTMESH_JOIN_TOKEN",
                reason=cause.reason if cause else "TOKEN_MISSING",
            ) from cause
        request = JoinRequest(
            namespace=self._namespace,
            agent_id=self._agent_id,
            type=self._type,
            join_token=self._join_token or "",
            public_key=key.public_key().public_bytes_raw(),
            capabilities=self._capabilities,
        )
        try:
            return self._accept((await link.join(request)).value)
        except NotAuthenticated as error:
            if cause is None:
                raise
            raise NotAuthenticated(
                f"the mesh accepts neither the key of agent {self._namespace}/{self._agent_id} ({cause.message}) "
                f"nor its join token ({error.message}): if it shall come back, create a join token with "
                "`meshctl deploy` and pass it in AGENTMESH_JOIN_TOKEN",
                reason=cause.reason,
                code=cause.code,
            ) from error

    def _accept(self, token: str) -> str:
        self._token = token
        self._renew_at_s = self._clock.monotonic() + _RENEW_AT_SHARE * lifetime_s(token)
        return token


def proof_message(namespace: str, agent_id: str, nonce: bytes) -> bytes:
    """What the agent's key signs to renew a token."""
    return b"\0".join([_PROOF_DOMAIN, namespace.encode(), agent_id.encode(), nonce])
