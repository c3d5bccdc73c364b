"""Tells people what they would not notice by themselves: that something failed, and that something never came."""
