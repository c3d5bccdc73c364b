"""The control database: one adapter on PostgreSQL, one in memory."""
