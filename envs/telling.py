"""What the rows of a vector environment are told of the last window, however it was simulated."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import logger
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.envs import resets
from helm_gym.envs.action import Layout
from helm_gym.envs.infos import Values, final_infos, term_values, vector_infos
from helm_gym.envs.observation import Observer
from helm_gym.envs.rendering import text_line
from helm_gym.envs.reward import Reward, total
from helm_gym.metrics import cluster_metrics
from helm_gym.sim.simulator import Telemetry

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Observations = NDArray[np.float32]
Told = tuple[Observations, Floats, Mask, Mask, dict[str, Any]]


class Telling:
    """Observations, rewards, infos and text of B clusters, from the fields below."""

    num_envs: int
    layout: Layout
    observation_space: Space[Any]
    autoreset_mode: AutoresetMode
    render_mode: str | None
    _observer: Observer
    _reward: Reward
    _seconds: Floats  # (B,) of a window
    _window: Telemetry | None  # last one of every cluster, warm-ups included
    _shares: Floats  # (B, M) in force
    _elapsed: NDArray[np.int64]  # (B,) decisions taken in the episode
    _ended: Mask  # (B,) clusters whose episode is over
    _figures: dict[str, Floats]  # metrics of the last window

    def render(self) -> tuple[str, ...] | None:
        """One line of text per row, if ``render_mode`` is ``ansi``."""
        if self.render_mode is None:
            logger.warn('render() shows nothing without render_mode="ansi"')
            return None
        if self._window is None:
            raise ResetNeeded("there is nothing to show yet; call reset() first")
        shares = self.layout.row_shares(self._shares).mean(axis=1)
        figures = self.layout.rows_of(self._figures)
        steps = self.layout.per_row(self._elapsed)
        return tuple(
            text_line(steps[row], shares[row], {name: v[row] for name, v in figures.items()})
            for row in range(self.num_envs)
        )

    def _begin(self, chosen: resets.Chosen) -> None:
        """Put the chosen clusters on a warm start."""
        raise NotImplementedError

    def _tell(self, resting: Mask, before: Floats) -> Told:
        """What a step returns; it also resets clusters whose episode ended, if it is to.

        Args:
            resting: (B,) clusters that were reset in place of the window.
            before: (B, M) shares in force before the decision.
        """
        ended = self.layout.per_row(self._ended)
        values, rewards = self._values(resting, before)
        observations, infos = self._observe(), {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            infos = final_infos(observations, values, ended)
            fresh = self._ended
            self._begin(resets.Chosen(fresh))
            values, _ = self._values(fresh, before)
            observations = self._observe()
        infos.update(vector_infos(values, np.ones(self.num_envs, np.bool_)))
        return observations, rewards, np.zeros(self.num_envs, np.bool_), ended, infos

    def _observe(self) -> Observations:
        assert self._window is not None
        seen = self._observer.observe(self._window, self._shares)
        return seen.reshape(self.observation_space.shape or ())

    def _values(self, fresh: Mask, before: Floats) -> tuple[Values, Floats]:
        """Infos and reward of every row; ``fresh`` clusters have taken no decision yet."""
        assert self._window is not None
        some_fresh = bool(fresh.any())
        if some_fresh:
            before = np.where(fresh[:, None], self._shares, before)
        self._figures = cluster_metrics(self._window, before, self._seconds)
        terms = self._reward.terms(self._window, self._figures)
        if some_fresh:
            rows = self.layout.per_row(fresh)
            terms = {name: np.where(rows, 0.0, term) for name, term in terms.items()}
        return {**self.layout.rows_of(self._figures), **term_values(terms)}, total(terms)
