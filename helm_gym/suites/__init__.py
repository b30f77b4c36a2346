"""Which scenarios, loads and seeds are used for what; capacities."""
