"""The benchmark: a plan of jobs, rows that can be replayed, and what is read from them.

``plan``, ``jobs`` and ``run`` make rows, ``rows`` and ``replay`` say what one means,
``leaderboard``, ``goodput`` and ``hindsight`` sum up, ``page`` writes the report.
"""
