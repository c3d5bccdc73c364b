"""Sending messages and looking into queues: one adapter on SQS, one in memory."""
