"""The measured frame error rates: monotone, bounded by what any code can do, and what a fresh run finds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.physics import ldpc, reconciliation

BLOCKS = ldpc.blocks()


@pytest.mark.parametrize("block", BLOCKS)
def test_rises_with_the_error_rate_everywhere(block: int) -> None:
    rates = [c.rate for c in ldpc.chosen(block)]
    grid = jnp.linspace(rates[0], rates[-1], 23)[:, None]
    qber = jnp.linspace(0, 0.5, 801)[None]
    found = np.asarray(jax.jit(ldpc.frame_error_rate, static_argnums=2)(grid, qber, block))
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=1) >= -1e-6).all()
    assert (found > 0).all() and (found < 1).all()
    assert (found[:, 0] < 0.02).all() and (found[:, -1] > 0.99).all()


@pytest.mark.parametrize("block", BLOCKS)
def test_iterations_rise_with_the_error_rate(block: int) -> None:
    rate = ldpc.chosen(block)[0].rate
    found = np.asarray(ldpc.mean_iterations(rate, jnp.linspace(0.0, 0.5, 400), block))
    assert (np.diff(found) >= -1e-4).all()
    assert 95 < found[-1] <= 100.001
    assert 1 < found[0] < 40


@pytest.mark.parametrize("block", BLOCKS)
def test_no_code_beats_the_finite_length_bound(block: int) -> None:
    for curve in ldpc.chosen(block):
        efficiency = curve.efficiency_at(0.1)
        qber = float(reconciliation.decodable_qber(curve.rate, efficiency))
        bits = float(curve.block - curve.punctured - curve.shortened)
        assert efficiency > float(reconciliation.finite_length_efficiency(bits, qber, 0.1))
        assert efficiency < 1.35


def test_interpolation_meets_the_counts() -> None:
    for curve in ldpc.chosen(BLOCKS[0]):
        found = np.asarray(ldpc.frame_error_rate(curve.rate, curve.qber, curve.block))
        share = curve.errors / curve.frames
        spread = 4 * np.sqrt(share * (1 - share) / curve.frames) + 0.03
        assert (np.abs(found - share) < spread).all()


def test_counts_are_counts() -> None:
    for curve in ldpc.curves():
        assert (np.diff(curve.efficiency) > 0).all()
        assert ((curve.errors >= 0) & (curve.errors <= curve.frames)).all()
        assert (curve.undetected <= curve.errors).all()
        adapted = reconciliation.adapted_rate(
            curve.mother_rate, curve.shortened / curve.block, curve.punctured / curve.block
        )
        assert curve.rate == pytest.approx(float(adapted), abs=1e-5)
        back = np.asarray(reconciliation.efficiency_of_rate(curve.rate, curve.qber))
        np.testing.assert_allclose(back, curve.efficiency, rtol=2e-4)


def test_door() -> None:
    rate = ldpc.chosen(BLOCKS[0])[0].rate
    with pytest.raises(ValueError, match="block must be one of"):
        ldpc.frame_error_rate(rate, 0.05, 777)
    with pytest.raises(ValueError, match="rate must be within"):
        ldpc.frame_error_rate(0.2, 0.05, BLOCKS[0])
    with pytest.raises(ValueError, match="qber must be within"):
        ldpc.mean_iterations(rate, 0.6, BLOCKS[0])
    clipped = jax.jit(lambda r, q: ldpc.frame_error_rate(r, q, BLOCKS[0]))(0.2, 0.6)
    assert 0.99 < float(clipped) < 1


def test_gradient_is_finite_and_rises() -> None:
    curve = ldpc.chosen(BLOCKS[0])[0]
    middle = float(reconciliation.decodable_qber(curve.rate, curve.efficiency_at(0.5) + 1e-4))
    slope = jax.grad(lambda q: ldpc.frame_error_rate(curve.rate, q, curve.block))(middle)
    assert np.isfinite(slope) and float(slope) > 0


def test_pooling() -> None:
    found, weights = ldpc._falling(np.array([3.0, 1.0, 2.0, 0.5, 0.5]), np.array([1.0, 1.0, 3.0, 1.0, 2.0]))
    np.testing.assert_allclose(found, [3.0, 1.75, 1.75, 0.5, 0.5])
    np.testing.assert_allclose(weights, [1.0, 4.0, 4.0, 3.0, 3.0])


def test_rates_between_measured_ones_lie_between() -> None:
    for below, above in itertools.pairwise(ldpc.chosen(BLOCKS[0])):
        rate = (below.rate + above.rate) / 2
        efficiency = (below.efficiency_at(0.1) + above.efficiency_at(0.1)) / 2
        qber = reconciliation.decodable_qber(rate, efficiency)
        assert float(ldpc.frame_error_rate(rate, qber, BLOCKS[0])) == pytest.approx(0.1, rel=0.2)
