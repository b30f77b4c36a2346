"""The benchmark: its plan, rows, replays, leaderboard and pages."""
