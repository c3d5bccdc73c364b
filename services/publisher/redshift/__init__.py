"""The warehouse in Amazon Redshift, reached by its Data API; docs/redshift.md says what of it was verified, and how."""
