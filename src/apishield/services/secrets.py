"""The master secret, and all that is derived from it: the pepper of hashes, the keys of encryption and of the chain.

``APISHIELD_SECRET="2:<base64>,1:<base64>"``: the first version writes, all of them verify and read. To rotate, put a
new version in front; rows name the version that made them and are renewed when they are used.

Sources: RFC 5869 (HKDF), NIST SP 800-38D (AES-GCM, 96-bit random nonces).
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from binascii import Error as Base64Error

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from apishield.core.audit_chain import ChainKey
from apishield.errors import APIShieldError, ConfigurationError

VARIABLE = "APISHIELD_SECRET"
AUDIT_LABEL = "audit"
MIN_SECRET_BYTES = 32
MAX_VERSION = 65_535

_VERSION_BYTES = 2
_NONCE_BYTES = 12
_HOW_TO_MAKE_ONE = f'Make one with: {VARIABLE}="1:$(openssl rand -base64 {MIN_SECRET_BYTES})"'


class CannotDecrypt(APIShieldError):  # noqa: N818  reads as what is wrong
    """A stored value was made with another secret, belongs elsewhere, or was changed."""


class Secrets:
    """The versions of the master secret. Shows nothing of them when printed."""

    def __init__(self, masters: dict[int, bytes]) -> None:
        self._masters = masters
        self._derived: dict[tuple[str, int], bytes] = {}
        self.current_version = next(iter(masters))

    def __repr__(self) -> str:
        return f"Secrets(versions={self.versions})"

    @classmethod
    def parse(cls, text: str) -> Secrets:
        """Reads the variable's form. Raises ``ConfigurationError``, which never repeats the value."""
        masters: dict[int, bytes] = {}
        for position, part in enumerate(text.strip().split(","), start=1):
            version, separator, encoded = part.strip().partition(":")
            where = f"{VARIABLE}, part {position}"
            if not (separator and version.isascii() and version.isdigit() and 1 <= int(version[:6]) <= MAX_VERSION):
                message = f"{where}: no version from 1 to {MAX_VERSION} and a colon in front. {_HOW_TO_MAKE_ONE}"
                raise ConfigurationError(message)
            if int(version) in masters:
                message = f"{where} repeats version {int(version)}. Give each version once, the newest first."
                raise ConfigurationError(message)
            masters[int(version)] = _decode(encoded, where)
        return cls(masters)

    @staticmethod
    def generate() -> str:
        """A new secret in the variable's form, version 1."""
        return f"1:{b64encode(secrets.token_bytes(MIN_SECRET_BYTES)).decode()}"

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions, the one that writes first."""
        return tuple(self._masters)

    def derive(self, label: str, version: int | None = None) -> bytes:
        """32 bytes for one purpose. Raises ``KeyError`` for a version that is not among ``versions``."""
        version = self.current_version if version is None else version
        derived = self._derived.get((label, version))
        if derived is None:
            info = f"apishield:{label}".encode()
            derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._masters[version])
            self._derived[label, version] = derived
        return derived

    def pepper(self, version: int | None = None) -> bytes:
        """The key of the HMAC under which secrets of keys and tokens are stored."""
        return self.derive("pepper", version)

    def audit_key(self) -> ChainKey:
        """The key that signs the audit log."""
        others = {version: self.derive(AUDIT_LABEL, version) for version in self.versions[1:]}
        return ChainKey(self.current_version, self.derive(AUDIT_LABEL), others)

    def encrypt(self, label: str, plaintext: bytes, associated_data: bytes = b"") -> bytes:
        """Seals ``plaintext``; ``associated_data`` says whose it is, so that rows can't be swapped."""
        head = self.current_version.to_bytes(_VERSION_BYTES, "big")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return head + nonce + AESGCM(self.derive(label)).encrypt(nonce, plaintext, head + associated_data)

    def decrypt(self, label: str, sealed: bytes, associated_data: bytes = b"") -> bytes:
        """Opens what ``encrypt`` sealed with the same label and associated data, else raises ``CannotDecrypt``."""
        head, nonce = sealed[:_VERSION_BYTES], sealed[_VERSION_BYTES : _VERSION_BYTES + _NONCE_BYTES]
        version = int.from_bytes(head, "big")
        if version not in self._masters or len(nonce) < _NONCE_BYTES:
            message = f"made with version {version} of {VARIABLE}, which is not given"
            raise CannotDecrypt(message)
        try:
            return AESGCM(self.derive(label, version)).decrypt(
                nonce, sealed[_VERSION_BYTES + _NONCE_BYTES :], head + associated_data
            )
        except InvalidTag:
            message = "the stored value belongs elsewhere or was changed"
            raise CannotDecrypt(message) from None

    def check_value(self, version: int | None = None) -> str:
        """What the database keeps to recognise a version; nothing can be learnt from it."""
        return self.derive("check value", version).hex()


def _decode(encoded: str, where: str) -> bytes:
    try:
        master = b64decode(encoded.strip(), validate=True)
    except (Base64Error, ValueError):
        message = f"{where} is not base64. {_HOW_TO_MAKE_ONE}"
        raise ConfigurationError(message) from None
    if len(master) < MIN_SECRET_BYTES:
        message = f"{where} has {len(master)} bytes; at least {MIN_SECRET_BYTES} are needed. {_HOW_TO_MAKE_ONE}"
        raise ConfigurationError(message)
    return master
