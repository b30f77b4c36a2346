"""Training; the only room that needs torch.

``plan`` says what a run is, ``train`` and ``seeds`` run one or several, ``scenarios``, ``draws``
and ``randomise`` say on what, and ``sb3`` holds what is particular to Stable-Baselines3. The rest
is what a run needs: checkpoints, validation, curves, the monitor, the release of a model.
"""
