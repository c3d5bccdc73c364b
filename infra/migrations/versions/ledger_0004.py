"""
Traces: a batch knows the trace of its run, and a message of the outbox where it belongs in it.

Both columns may be NULL, so that processes of the version before read and write beside those of this one.

Revision: 0004
"""

import sqlalchemy
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns. Neither has a default, so no row is rewritten."""
    op.add_column(
        "batch",
        sqlalchemy.Column(
            "trace_id",
            sqlalchemy.Text,
            nullable=True,
            comment="Of its run; NULL before there were traces. In log lines and spans.",
        ),
        schema="esclusa",
    )
    op.add_column(
        "outbox",
        sqlalchemy.Column(
            "traceparent",
            sqlalchemy.Text,
            nullable=True,
            comment="Goes beside the body, as W3C Trace Context has it.",
        ),
        schema="esclusa",
    )
