"""setup.cfg names every package and data file on disk; a wheel claims no name but helm_gym."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helm_gym._version import __version__

CHECKOUT = Path(__file__).resolve().parents[1]
# Top-level folders that are installed inside helm_gym, as setup.cfg's package_dir says.
MAPPED = ("envs", "agents", "baselines")
BUILD_INPUTS = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
# Compiled leftovers and documents are not data that the library reads.
NOT_DATA = {".py", ".pyc", ".nbi", ".nbc", ".md"}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    return parser


def listed(value: str) -> list[str]:
    """The items of a setup.cfg list, which is separated by commas or lines."""
    return [item.strip() for item in value.replace("\n", ",").split(",") if item.strip()]


def source_files() -> Iterator[Path]:
    for top in ("helm_gym", *MAPPED):
        for path in (CHECKOUT / top).rglob("*"):
            # A store locks its folder; the lock stays behind and is nobody's data.
            if path.is_file() and path.name != ".lock" and "__pycache__" not in path.parts:
                yield path


def package_name(folder: Path) -> str:
    parts = folder.relative_to(CHECKOUT).parts
    return ".".join(parts if parts[0] == "helm_gym" else ("helm_gym", *parts))


def packages_on_disk() -> dict[str, Path]:
    folders = {path.parent for path in source_files() if path.suffix == ".py"}
    return {package_name(folder): folder for folder in folders}


def data_files_on_disk() -> set[Path]:
    return {path for path in source_files() if path.suffix not in NOT_DATA}


def test_setup_cfg_lists_the_packages_on_disk(setup_cfg: configparser.RawConfigParser) -> None:
    packages = listed(setup_cfg["options"]["packages"])
    assert len(packages) == len(set(packages))
    assert set(packages) == set(packages_on_disk())


def test_every_package_has_an_init() -> None:
    for name, folder in packages_on_disk().items():
        assert (folder / "__init__.py").exists(), name


def test_package_data_covers_the_data_files(setup_cfg: configparser.RawConfigParser) -> None:
    folders = packages_on_disk()
    covered = {
        path
        for package, patterns in setup_cfg["options.package_data"].items()
        for pattern in listed(patterns)
        for path in folders[package].glob(pattern)
    }
    assert data_files_on_disk() - covered == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy, since a build writes into its source tree."""
    tree = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
    for top in ("helm_gym", *MAPPED):
        shutil.copytree(CHECKOUT / top, tree / top, ignore=ignore)
    for name in BUILD_INPUTS:
        if (CHECKOUT / name).exists():
            shutil.copy(CHECKOUT / name, tree / name)
    # Without isolation and index: the test must neither wait for a network nor need one.
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", "dist"]
    built = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (tree / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def dist_info_text(wheel: zipfile.ZipFile, name: str) -> str:
    (member,) = (at for at in wheel.namelist() if at.endswith(f".dist-info/{name}"))
    return wheel.read(member).decode()


def test_wheel_installs_one_top_level_name(wheel: zipfile.ZipFile) -> None:
    assert dist_info_text(wheel, "top_level.txt").split() == ["helm_gym"]
    top_level = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"helm_gym"}


def test_wheel_holds_every_module_and_data_file(wheel: zipfile.ZipFile) -> None:
    wanted = set()
    for package, folder in packages_on_disk().items():
        inside = package.replace(".", "/")
        wanted |= {f"{inside}/{module.name}" for module in folder.glob("*.py")}
    for path in data_files_on_disk():
        parts = path.relative_to(CHECKOUT).parts
        wanted.add("/".join(parts if parts[0] == "helm_gym" else ("helm_gym", *parts)))
    assert wanted - set(wheel.namelist()) == set()
    assert {"helm_gym/envs/__init__.py", "helm_gym/py.typed"} <= wanted


def test_wheel_has_the_version_and_the_command(wheel: zipfile.ZipFile) -> None:
    assert f"\nVersion: {__version__}\n" in dist_info_text(wheel, "METADATA")
    assert "helm-gym = helm_gym.cli:main" in dist_info_text(wheel, "entry_points.txt")
