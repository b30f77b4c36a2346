"""The suites of scenarios, and who may see which of them.

``moving`` has the cells of the suite, ``courses`` their streams, ``freezing`` writes its files.
``replays`` makes cells of logs. ``capacity`` measures what a scenario carries, ``mixes`` every
surface mix of it. ``splits`` and ``seeds`` keep training, validation and test apart.
"""
