"""Objects that are written once: one adapter on S3, one in memory."""
