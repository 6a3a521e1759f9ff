"""Runs migrations on the connection that ``stores.sql.migrate`` hands over, in its transaction."""

from alembic import context

from apishield.stores.sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite can, since the engine begins its transactions itself
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()
