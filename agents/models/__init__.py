"""What a trained network is, and the files that hold one; no torch.

``view`` connects a network to an environment, ``actor`` runs it, ``files`` reads and writes it
with its ``card``; ``trained`` is the policy, ``released`` knows the models of the package, and
``layers`` and ``onnx`` hand its weights on.
"""
