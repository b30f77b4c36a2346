"""The residual that is learned online, beside a policy that stays as it is.

``net`` is the network and ``config`` its settings; ``learner`` follows one stream, with ``signals``
(what a window says), ``methods`` (how weights get better) and ``guard`` (when to switch it off).
"""
