"""Every shipped agent on every task: `python -m benchmarks.leaderboard`."""
