"""Requests that take effect once, however often they are sent: the first answer is kept for 24 hours, and given again.

An answer may hold a secret, so it is sealed under a key that is made from the credential and the Idempotency-Key. Neither
is stored, so the row can be opened only by whoever sends both again; stored are digests that nobody can guess back.

A first request that was cut off by a crash stays unanswered: whether it took effect is unknown, so it is never run again.

Sources: RFC 5869 (HKDF); draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

import hmac
import secrets as system_random
from hashlib import sha256

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from apishield.core.model import SECOND_US
from apishield.core.records import Actor
from apishield.errors import ProblemError
from apishield.services.base import Service
from apishield.stores.sql.failures import in_doubt
from apishield.stores.sql.repositories.idempotency import Slot

KEPT_US = 24 * 3_600 * SECOND_US

_NONCE_BYTES = 12
_FORGOTTEN_EVERY = 256
_NOT_ANSWERED = (
    "The first request with this Idempotency-Key has not been answered: it is running, or it was cut off. "
    "Look whether it took effect; if it did not, send it again with a new key."
)


class Answer(msgspec.Struct, frozen=True):
    """What the first request was answered."""

    status: int
    media_type: str | None
    body: bytes


class Replay(Answer, frozen=True):
    """The kept answer of the first request, to be given again."""


class Started(msgspec.Struct, frozen=True):
    """A first request: run it, then ``finish`` or ``abandon``."""

    slot: Slot
    key: bytes

    def __repr__(self) -> str:
        return f"Started(slot={self.slot})"


class IdempotencyService(Service):
    """Call it after the credential was authorized anew: a kept answer is given to nobody who may not ask."""

    async def begin(
        self, actor: Actor, *, credential: str, route: str, idempotency_key: str, request_digest: bytes
    ) -> Replay | Started:
        """Takes the place of a first request, or gives its answer.

        Raises 409 ``idempotency_in_progress`` while the first has no answer, 422 ``idempotency_mismatch`` where it was
        another request. The same key of another tenant, credential or route is another key.
        """
        name, key = _keys(credential, idempotency_key)
        slot = Slot(actor.tenant_id or "", actor.id, route, name)
        wanted = hmac.digest(key, request_digest, "sha256")
        async with self._database.transaction() as tx:
            if await tx.idempotency.take(slot, wanted, now_us=tx.now_us, expires_at_us=tx.now_us + KEPT_US):
                if name[0] % _FORGOTTEN_EVERY == 0:
                    await tx.idempotency.forget(now_us=tx.now_us)
                return Started(slot, key)
            first = await tx.idempotency.get(slot)
        if first is not None and not hmac.compare_digest(first.request_digest, wanted):
            raise ProblemError(
                "idempotency_mismatch",
                "This Idempotency-Key was sent with another request in the last 24 hours. Use a new key for a new request.",
            )
        if first is None or first.answer is None:
            raise ProblemError("idempotency_in_progress", _NOT_ANSWERED, headers={"Retry-After": "1"})
        opened = AESGCM(key).decrypt(first.answer[:_NONCE_BYTES], first.answer[_NONCE_BYTES:], _place(slot))
        return msgspec.msgpack.decode(opened, type=Replay)

    async def finish(self, started: Started, answer: Answer) -> None:
        """Keeps the answer."""
        nonce = system_random.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(started.key).encrypt(nonce, msgspec.msgpack.encode(answer), _place(started.slot))
        with in_doubt():  # the request itself took effect
            async with self._database.transaction() as tx:
                await tx.idempotency.answer(started.slot, sealed)

    async def abandon(self, started: Started) -> None:
        """Frees the place of a request that is known to have taken no effect."""
        async with self._database.transaction() as tx:
            await tx.idempotency.free(started.slot)


def _keys(credential: str, idempotency_key: str) -> tuple[bytes, bytes]:
    """What the slot is found by, and the key of its contents. Both need the credential, which has 178 random bits."""
    salt = sha256(idempotency_key.encode("utf-8", "surrogatepass")).digest()
    material = HKDF(algorithm=SHA256(), length=64, salt=salt, info=b"apishield:idempotency").derive(
        credential.encode("utf-8", "surrogatepass")
    )
    return material[:32], material[32:]


def _place(slot: Slot) -> bytes:
    return msgspec.msgpack.encode([slot.tenant_id, slot.credential_id, slot.route])
