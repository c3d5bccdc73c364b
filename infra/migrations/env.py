"""What Alembic runs: the revisions, on the connection that `infra.migrations` holds."""

from alembic import context

from shared.ledger.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=SCHEMA,
)
context.run_migrations()
