"""
Connections to a source are counted, whoever opens them: how many there may be, and who is there beside the batches.

Both columns may be NULL, so that processes of the version before read and write beside those of this one.

Revision: 0005
"""

import sqlalchemy
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns. Neither has a default, so no row is rewritten."""
    op.add_column(
        "source_guard",
        sqlalchemy.Column(
            "max_connections",
            sqlalchemy.Integer,
            nullable=True,
            comment="Of the whole fleet; as the source file says.",
        ),
        schema="esclusa",
    )
    op.add_column(
        "source_guard",
        sqlalchemy.Column(
            "visits",
            JSONB,
            nullable=True,
            comment="Who is there beside the batches: id, who, connection_count, lease_until.",
        ),
        schema="esclusa",
    )
