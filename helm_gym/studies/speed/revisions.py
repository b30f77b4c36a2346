"""Git, as far as a comparison of two revisions needs it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import helm_gym
from helm_gym.errors import ConfigError

PACKAGE = Path(helm_gym.__file__).parent


class Commit(NamedTuple):
    """What a revision is."""

    asked: str  # as the user wrote it
    digest: str  # all 40 digits

    @property
    def short(self) -> str:
        """Its first digits, and how it was asked for if that says more."""
        digits = self.digest[:8]
        return digits if self.digest.startswith(self.asked) else f"{self.asked} ({digits})"


@dataclass(frozen=True)
class Repository:
    """The checkout that this package runs from."""

    folder: Path

    @classmethod
    def of(cls, package: Path = PACKAGE) -> Repository:
        """Find the checkout of a package's folder.

        Raises:
            ConfigError: git is missing, or the package is no part of a checkout.
        """
        if shutil.which("git") is None:
            raise ConfigError("--against compares git revisions, and there is no git; install it")
        found = _git(package, "rev-parse", "--show-toplevel")
        folder = Path(found.stdout.strip())
        if found.returncode or not _same(folder / package.name, package):
            raise ConfigError(
                f"--against compares git revisions, and {package} is no git checkout; clone the "
                "repository and run its own helm-gym (make env installs it)"
            )
        return cls(folder)

    def commit(self, revision: str = "HEAD") -> Commit:
        """Look a revision up.

        Raises:
            ConfigError: there is none of that name.
        """
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        found = _git(self.folder, *asked)
        if found.returncode:
            raise ConfigError(
                f"--against {revision}: {self.folder} has no such revision; write a branch, a tag "
                "or a commit, as git log --oneline lists them"
            )
        return Commit(revision, found.stdout.strip())

    @property
    def dirty(self) -> bool:
        """Whether tracked files differ from HEAD, or files are there that git does not know."""
        return bool(_git(self.folder, "status", "--porcelain").stdout.strip())

    @contextmanager
    def checked_out(self, commit: Commit) -> Iterator[Path]:
        """A temporary work tree of a commit, which is removed however the block ends.

        Raises:
            ConfigError: git cannot make it; the message holds git's own.
        """
        with tempfile.TemporaryDirectory(prefix="helm-gym-speed-") as above:
            tree = Path(above).resolve() / commit.digest[:8]
            try:
                made = _git(
                    self.folder, "worktree", "add", "--detach", "--quiet", str(tree), commit.digest
                )
                if made.returncode:
                    raise ConfigError(
                        f"git cannot check out {commit.short} into {tree}: {made.stderr.strip()}"
                    )
                yield tree
            finally:
                _git(self.folder, "worktree", "remove", "--force", str(tree))


def state_of(package: Path = PACKAGE) -> tuple[str, bool]:
    """Commit of a package's checkout and whether it was changed since; "" outside of one."""
    try:
        repository = Repository.of(package)
        return repository.commit().digest, repository.dirty
    except ConfigError:
        return "", False


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
