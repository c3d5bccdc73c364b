"""Where references to secrets lead: one adapter on the real stores, one in memory."""
