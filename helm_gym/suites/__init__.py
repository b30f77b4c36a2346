"""The suites of scenarios, and who may see which of them.

``paper`` and ``heldout`` are frozen, ``probe`` and ``capacity`` measure what a scenario carries,
and ``splits`` and ``seeds`` keep training, validation and test apart.
"""
