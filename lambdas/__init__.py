"""The gates between the areas, the cleaner behind them and the sweeper that heals what never happened."""
