"""The gates between the areas, the cleaner behind them, the sweeper that heals and the watcher that tells."""
