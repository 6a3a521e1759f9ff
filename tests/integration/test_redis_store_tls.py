"""The Redis store over TLS: the connection that redis-py encrypts is taken over whole, and a wrong certificate is refused."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apishield.core.counter_keys import counter_key
from apishield.core.model import Counter, Limit, SlidingWindow, Verdict
from apishield.errors import StoreUnavailable
from apishield.stores.redis import RedisStore
from tests.support.processes import Reaper, free_port
from tests.support.services import RedisServer

PATIENT_MS = 10_000


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "redis.crt", directory / "redis.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path


@pytest.fixture(scope="module")
def addresses(reaper: Reaper, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A server that speaks TLS, by an address that trusts its certificate and by one that does not."""
    request.getfixturevalue("redis_server")  # says what is missing where Redis is not installed
    binary = shutil.which("redis-server")
    assert binary is not None
    certificate, key = make_certificate(reaper.make_directory())
    port = free_port()
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]
    server = RedisServer(reaper, binary, "--tls-port", str(port), "--tls-auth-clients", "no", *files)
    yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}", f"rediss://127.0.0.1:{port}/0"
    server.kill()


async def ask(store: RedisStore) -> Verdict:
    limit = Limit(id="lim_1", name="x", algorithm=SlidingWindow(10, 60_000_000))
    verdict = store.decide([Counter(counter_key("ten_1", "live", limit, {"key": "key_1"}), limit)], [1])
    return verdict if isinstance(verdict, Verdict) else await verdict


async def test_checks_are_decided_over_tls(addresses: tuple[str, str]) -> None:
    store = RedisStore(addresses[0], timeout_ms=PATIENT_MS)
    assert [(await ask(store)).outcomes[0].remaining for _ in range(3)] == [9, 8, 7]
    await store.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(addresses: tuple[str, str]) -> None:
    store = RedisStore(addresses[1], timeout_ms=PATIENT_MS)
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        await ask(store)
    await store.close()
