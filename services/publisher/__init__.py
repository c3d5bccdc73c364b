"""Makes the committed files of one batch visible to analysts: external and native tables."""
