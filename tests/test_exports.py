"""Packages offer short names, and load what defines them only when a name is used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("helm_gym.envs", "helm_gym.agents", "helm_gym.agents.controller")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_that_a_package_offers_can_be_imported(package: str) -> None:
    pytest.importorskip("stable_baselines3")
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        found = getattr(module, name)
        if hasattr(found, "__module__"):
            assert found.__module__.startswith(f"{package}.")
            assert getattr(sys.modules[found.__module__], name) is found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_that_it_does_not_offer_is_an_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'Nobody'"):
        _ = module.Nobody
    with pytest.raises(ImportError, match="Nobody"):
        exec(f"from {package} import Nobody", {})


def test_documented_paths_work_and_load_no_learning_library() -> None:
    code = (
        "import sys\n"
        "from helm_gym.agents.controller import HelmController, telemetry\n"
        "from helm_gym.agents.controller.telemetry import ClusterColumn, NodeColumn, Site, empty\n"
        "from helm_gym.agents import Anchor, HelmPolicy, TrainedPolicy\n"
        "from helm_gym.envs import EmbKvEnv, FEATURES\n"
        "loaded = {'torch', 'stable_baselines3'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
