"""Two readings of recent papers, and the single move: when they move, where to, and when not."""

from __future__ import annotations

import numpy as np
import pytest
from rules_seen import calm, observed, squeezed, wandering

from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.policy import initial_share_of


def values(emb: float, kv: float, **features: float) -> np.ndarray:
    """A window in which a ghost more memory would save so many seconds per second."""
    return observed(marginal_emb=squeezed(emb / 0.01), marginal_kv=squeezed(kv / 0.01), **features)


@pytest.mark.parametrize(
    ("emb", "kv", "move"),
    [
        (0.04, 0.01, 0.04),  # EMB's next byte saves more
        (0.01, 0.04, -0.04),
        (0.014, 0.01, 0.0),  # within the factor
        (0.01, 0.014, 0.0),
        (0.016, 0.01, 0.04),  # just beyond it
        (0.01, 0.016, -0.04),
    ],
)
def test_wisp_feeds_the_side_whose_next_byte_saves_more(emb: float, kv: float, move: float) -> None:
    rule = make_policy("wisp:factor=1.5,step=0.04,floor=0")
    assert rule.act(values(emb, kv))[0, 0] == pytest.approx(0.5 + move, abs=1e-6)


def test_wisp_weighs_a_second_by_the_queue_that_it_shortens() -> None:
    busy_link = values(0.01, 0.01, link_utilisation=0.9, gpu_utilisation=0.5)
    assert make_policy("wisp:queue=0").act(busy_link)[0, 0] == pytest.approx(0.5)
    assert make_policy("wisp:queue=1").act(busy_link)[0, 0] == pytest.approx(0.56)
    # A fifth of the time is left on the link: a KV second must save five times as much.
    even = values(0.01, 0.05, link_utilisation=0.9, gpu_utilisation=0.5)
    assert make_policy("wisp:queue=1").act(even)[0, 0] == pytest.approx(0.5)
    assert make_policy("wisp:queue=2").act(even)[0, 0] == pytest.approx(0.56)


def test_wisp_leaves_kv_its_floor_and_gives_it_back() -> None:
    rule = make_policy("wisp:floor=0.3,step=0.06")
    shares = {0.6: 0.66, 0.66: 0.7, 0.7: 0.7, 0.75: 0.7}
    for share, want in shares.items():
        assert rule.act(values(0.05, 0.01, emb_share=share))[0, 0] == pytest.approx(want, abs=1e-6)
    assert rule.act(values(0.01, 0.01, emb_share=0.75))[0, 0] == pytest.approx(0.7)
    assert rule.act(values(0.01, 0.05, emb_share=0.7))[0, 0] == pytest.approx(0.64)


def test_wisp_rests_where_nobody_gains_anything() -> None:
    assert make_policy("wisp").act(values(0.0, 0.0))[0, 0] == pytest.approx(0.5)


def test_vamp_gives_kv_a_step_on_every_event_and_counts_quiet_windows() -> None:
    rule = make_policy("vamp:event=0.03,step=0.06,back=0.02,quiet=3")
    kv = [0.05, 0.01, 0.01, 0.01, 0.01, 0.01, 0.05, 0.01, 0.01, 0.01]
    moves = [rule.act(values(0.0, one))[0, 0] - 0.5 for one in kv]
    want = [-0.06, 0.0, 0.0, 0.02, 0.0, 0.0, -0.06, 0.0, 0.0, 0.02]
    assert moves == pytest.approx(want, abs=1e-6)


def test_vamp_does_nothing_without_an_event_whatever_else_goes_wrong() -> None:
    rule = make_policy("vamp:event=0.03,quiet=100")
    for features in (
        {"p99": 0.9, "mean_latency": 0.9},
        {"link_utilisation": 1.5, "emb_hit_rate": 0.0},
        {"gpu_utilisation": 1.5, "kv_hit_rate": 0.0},
    ):
        assert rule.act(values(0.08, 0.029, **features))[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("spec", ["wisp", "vamp:quiet=3", "one-move:first=0.2,then=0.6,after=7"])
@pytest.mark.parametrize("control", ["node", "cluster"])
def test_what_is_restored_goes_on_bit_for_bit(spec: str, control: str) -> None:
    series = wandering(rows=4, windows=20)
    spec += f"{',' if ':' in spec else ':'}control={control}"
    one, other = make_policy(spec), make_policy(spec)
    one.reset(0)
    other.reset(1)
    for window in series[:10]:
        one.act(window)
    other.restore(one.state())
    for window in series[10:]:
        np.testing.assert_array_equal(one.act(window), other.act(window))


def test_vamp_counts_for_every_row_by_itself() -> None:
    rule = make_policy("vamp:event=0.03,step=0.06,back=0.02,quiet=2")
    event, quiet = values(0.0, 0.05), values(0.0, 0.01)
    rule.act(np.concatenate([event, quiet]))
    chosen = rule.act(np.concatenate([quiet, quiet]))[:, 0]
    assert chosen == pytest.approx([0.5, 0.52], abs=1e-6)


def test_a_single_move_begins_at_its_first_share_and_travels_to_the_other() -> None:
    rule = make_policy("one-move:first=0.3,then=0.5,after=2")
    assert initial_share_of(rule) == 0.3
    rule.reset(0)
    share, path = 0.3, []
    for _ in range(8):
        share = float(rule.act(calm(share))[0, 0])
        path.append(share)
    assert path == pytest.approx([0.3, 0.3, 0.36, 0.42, 0.48, 0.5, 0.5, 0.5], abs=1e-6)
    rule.reset(0)
    assert rule.act(calm(0.3))[0, 0] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wisp:factor=0.9", r"wisp: factor='0\.9': .*greater than or equal to 1"),
        ("vamp:quiet=0", "vamp: quiet='0'"),
        ("one-move:after=-1", "one-move: after='-1'"),
        ("one-move:first=0.2,to=0.6", "is no setting"),
        ("one_move:first=0.2", "did you mean 'one-move'"),
        ("one-move:best", "is no setting"),
    ],
)
def test_a_wrong_setting_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(spec)
