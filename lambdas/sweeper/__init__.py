"""Heals everything that was recorded but never happened, and everything that happened but was never recorded."""
