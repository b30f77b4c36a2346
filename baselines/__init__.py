"""Policies without learning: one module a family, all of them named in ``registry``.

``rule`` has what they share, ``schedule`` plays shares that were found in hindsight.
:func:`helm_gym.baselines.registry.make_rule` makes one from its spec, such as ``aimd:up=0.02``.
"""
