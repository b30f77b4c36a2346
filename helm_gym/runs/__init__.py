"""Running policies on seeds, and the statistics of what comes out.

``rollout`` plays episodes, ``bank`` lets many policies decide side by side under a time limit,
``warmup`` looks at how clusters begin, ``stats`` and ``benchmark_stats`` have the intervals.
"""
