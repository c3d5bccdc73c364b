"""The embedded stack: AWS, PostgreSQL and two sample sources on one machine, on loopback only. Not for production."""
