"""Telling people of alarms: by a webhook, by a topic of SNS, and in memory for tests."""
