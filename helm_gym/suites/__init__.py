"""The suites of scenarios, and who may see which of them.

``paper`` and ``heldout`` are frozen. ``capacity`` measures what a scenario carries, ``mixes`` every
surface mix of it. ``splits`` and ``seeds`` keep training, validation and test apart.
"""
