"""Policies around a policy, each a subclass of :class:`helm_gym.policy.Wrapper`.

``anchored`` ties it to a planned share, ``adapted`` adds a learned residual, ``recovered``
overrides it in bursts, and ``helm`` is all three.
"""
