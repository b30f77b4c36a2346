"""The deployed controller: ``controller`` decides, ``telemetry`` says what it has to be given.

``path`` and ``networks`` are the compiled decision behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helm_gym.lazy import exports

if TYPE_CHECKING:
    from helm_gym.agents.controller.controller import HelmController
    from helm_gym.agents.controller.telemetry import Site

__all__ = ["HelmController", "Site"]

__getattr__, __dir__ = exports(__name__, {"HelmController": "controller", "Site": "telemetry"})
