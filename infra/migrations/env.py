"""What Alembic runs: the revisions of one chain, on the connection that `infra.migrations` holds."""

from alembic import context

from shared.ledger.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    version_table=context.config.attributes["version_table"],
)
context.run_migrations()
