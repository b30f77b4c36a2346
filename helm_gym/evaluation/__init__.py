"""Policies by name, their searches, and comparisons that a user starts.

``specs`` makes a policy of its spec, ``tune`` and its neighbours resolve ``NAME:best``,
``evaluate``, ``tables`` and ``report`` compare, ``demo`` shows it all.
"""
