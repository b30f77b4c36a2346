"""Typed errors. Each message says what was given, why it cannot work and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HelmGymError(Exception):
    """Base of every error that helm_gym raises on purpose."""


class ConfigError(HelmGymError, ValueError):
    """A scenario, profile, policy spec or option cannot be used as written."""


class ArgumentError(ConfigError, TypeError):
    """A constructor has no such argument, or no such render mode.

    Stable-Baselines3 and TorchRL try an argument that few environments have, and go on without it
    if the error is a ``TypeError`` in Python's own words. So it is one, and begins with them.
    """

    @classmethod
    def unexpected(cls, owner: type[object], name: str, hint: str) -> ArgumentError:
        """Say it as Python does, and then what to write instead.

        Args:
            owner: class whose constructor was called.
            name: the argument.
            hint: what to write instead; begins with its own punctuation.
        """
        words = f"got an unexpected keyword argument {name!r}"
        return cls(f"{owner.__name__}.__init__() {words}{hint}")


class LogError(HelmGymError, ValueError):
    """A user's log or trace is malformed; the message names file, column and row."""


class InvalidAction(HelmGymError, ValueError):
    """An action has the wrong shape, or is not a finite number."""


class SimulationError(HelmGymError, RuntimeError):
    """The simulator ran out of a fixed-size resource; the message names the setting to raise."""


class CheckpointError(HelmGymError, ValueError):
    """A checkpoint is truncated, foreign, or does not fit the run that wants it."""


class PolicyError(HelmGymError, RuntimeError):
    """A policy raised, or returned something that is not an action."""


class CalibrationWarning(UserWarning):
    """A scenario asks for kernel times outside the sizes that were measured."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'taobao'?``, or list what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
