"""No secret that was ever given out, taken in or sent can be found in the database, in clear or as a bare hash."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from apishield.core.records import Role
from apishield.services.idempotency import Answer, Started
from apishield.services.key_drafts import ImportItem, KeyDraft
from apishield.stores.sql.database import Database
from apishield.stores.sql.tables import metadata
from tests.support.control_plane import OPERATOR, ControlPlane

IDEMPOTENCY_KEY = "canary-idempotency-key"
IMPORTED = "canary-imported-key-0123456789"
IMPORTED_AS_HASH = "canary-known-only-by-its-hash"


async def contents(database: Database) -> bytes:
    """All that is stored: the files of SQLite, log included; every row of every table of PostgreSQL."""
    if database.is_sqlite:
        assert database.url.database is not None
        path = Path(database.url.database)
        return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))
    stored: list[bytes] = []
    async with database.read() as tx:
        for table in metadata.sorted_tables:
            for row in await tx.connection.exec_driver_sql(f'SELECT * FROM "{table.name}"'):
                stored += [
                    bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode() for value in row
                ]
    return b"\n".join(stored)


async def test_no_secret_is_found_in_the_database(plane: ControlPlane) -> None:
    created = await plane.tenants.create(OPERATOR, name="My App")
    owner = OPERATOR.__class__(id=created.token.id, role=Role.OWNER, tenant_id=created.tenant.id)
    _, token_secret = await plane.tokens.create(owner, name="ci", role=Role.VIEWER)
    key, first_secret = await plane.keys.create(owner, KeyDraft(name="k"))
    _, second_secret = await plane.keys.rotate(owner, key.id, grace_seconds=60)
    imported = await plane.keys.import_many(
        owner,
        [
            ImportItem(draft=KeyDraft(name="clear"), secret=IMPORTED),
            ImportItem(draft=KeyDraft(name="hash"), sha256=sha256(IMPORTED_AS_HASH.encode()).hexdigest()),
            ImportItem(draft=KeyDraft(name="refused twice"), secret=IMPORTED),
        ],
    )
    assert [result.key is not None for result in imported] == [False, True, False]
    (clear,) = await plane.keys.import_many(owner, [ImportItem(draft=KeyDraft(name="clear"), secret=IMPORTED)])
    assert clear.key is not None
    begun = await plane.idempotency.begin(
        owner,
        credential=created.token_secret,
        route="POST /v1/keys/import",
        idempotency_key=IDEMPOTENCY_KEY,
        request_digest=sha256(IMPORTED.encode()).digest(),
    )
    assert isinstance(begun, Started)
    await plane.idempotency.finish(begun, Answer(201, "application/json", first_secret.encode()))

    stored = await contents(plane.database)
    assert key.id.encode() in stored
    secrets = {
        "the first token": created.token_secret,
        "the first service key": created.key_secret,
        "a token": token_secret,
        "a key": first_secret,
        "a rotated key": second_secret,
        "an imported key": IMPORTED,
        "a key imported as a hash": IMPORTED_AS_HASH,
        "an Idempotency-Key": IDEMPOTENCY_KEY,
    }
    for what, secret in secrets.items():
        bare = sha256(secret.encode())
        for form in (secret.encode(), secret[12:].encode(), bare.digest(), bare.hexdigest().encode()):
            assert form not in stored, what
