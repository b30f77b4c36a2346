"""Gymnasium environments for EMB-KV cache splitting in recommender serving.

Importing this package registers the environments and nothing more: the simulator and its compiled
kernels load when an environment is made.

The rooms, each of which uses those above it only: ``config`` and ``hardware`` (what a scenario is),
``workload`` and ``sim`` (requests, and the cluster that serves them), ``envs`` (Gymnasium),
``baselines``, ``runs``, ``suites`` and ``hindsight`` (policies without learning, and how any policy
is run), ``agents`` (policies that learn), ``evaluation``, ``benchmark``, ``studies`` and
``fidelity`` (comparisons), ``cli`` (the command).
"""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import register, registry

from helm_gym._version import __version__

__all__ = ["ENV_IDS", "__version__", "register_envs"]

ENV_IDS: dict[str, dict[str, Any]] = {
    "helm_gym/EmbKvAllocation-v0": {"control": "cluster"},
    "helm_gym/EmbKvAllocationPerNode-v0": {"control": "per_node", "flat": True},
    "helm_gym/EmbKvAllocationDiscrete-v0": {"control": "cluster", "action": "choice"},
    "helm_gym/EmbKvAllocationPerNodeDiscrete-v0": {
        "control": "per_node",
        "flat": True,
        "action": "choice",
    },
}
"""Every id that this package registers, with the arguments that make it what it is."""


def register_envs() -> None:
    """Make :data:`ENV_IDS` known to ``gymnasium.make`` and ``make_vec``.

    A second call does nothing: worker processes import modules again, and registering an id twice
    makes Gymnasium warn.
    """
    for env_id, kwargs in ENV_IDS.items():
        if env_id not in registry:
            register(
                id=env_id,
                entry_point="helm_gym.envs.single_env:EmbKvEnv",
                vector_entry_point="helm_gym.envs.vector_env:EmbKvVectorEnv",
                kwargs=dict(kwargs),
            )


register_envs()
