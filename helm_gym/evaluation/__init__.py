"""Policies by name, their searches, and comparisons that a user starts.

``specs`` makes a policy of its spec, ``search`` and ``helm_candidates`` resolve ``NAME:best``,
``evaluate``, ``tables`` and ``report`` compare, ``golden`` keeps the bits of short runs, and
``demo`` shows it all.
"""
