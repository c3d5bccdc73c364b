"""What every part stands on: the domain, the ports and their adapters."""
