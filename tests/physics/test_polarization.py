"""Rotations of the Poincare sphere against SciPy's, the drift against its closed form, actuators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from qkd_gym.physics import polarization as pol

RNG = np.random.default_rng(0)
A, B = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in RNG.normal(size=(2, 60, 4)))
V = RNG.normal(size=(60, 3))


def scipy_rotation(q):
    return Rotation.from_quat(np.roll(q, -1, axis=-1))


def test_algebra_matches_scipy(dtype):
    a, b, v = (x.astype(dtype) for x in (A, B, V))
    ra, rb = scipy_rotation(A), scipy_rotation(B)
    tight = {"atol": 8 * np.finfo(dtype).eps, "rtol": 0}
    np.testing.assert_allclose(pol.matrix(a), ra.as_matrix(), **tight)
    np.testing.assert_allclose(pol.matrix(pol.compose(a, b)), (ra * rb).as_matrix(), **tight)
    np.testing.assert_allclose(pol.matrix(pol.inverse(a)), ra.inv().as_matrix(), **tight)
    np.testing.assert_allclose(pol.rotate(a, v), ra.apply(v), atol=30 * np.finfo(dtype).eps)
    np.testing.assert_allclose(pol.matrix(pol.from_rotation_vector(v)), Rotation.from_rotvec(v).as_matrix(), **tight)
    np.testing.assert_allclose(pol.angle_rad(a), ra.magnitude(), atol=2e-6 if dtype == np.float32 else 1e-12)
    axis, angle = v / np.linalg.norm(v, axis=-1, keepdims=True), np.linspace(-3, 3, 60).astype(dtype)
    expected = Rotation.from_rotvec(axis * angle[:, None]).as_matrix()
    np.testing.assert_allclose(pol.matrix(pol.from_axis_angle(axis, angle)), expected, **tight)


def test_jones_matrix_turns_stokes_by_twice_the_angle(x64):
    """exp(-i alpha.sigma) acts on Stokes vectors as a rotation by 2|alpha|."""
    sigma = np.array([[[1, 0], [0, -1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]]])  # S1 = Z basis, S2 = X basis, S3
    alpha = np.array([0.3, -0.2, 0.5])
    angle = np.linalg.norm(alpha)
    jones = np.cos(angle) * np.eye(2) - 1j * np.sin(angle) / angle * np.einsum("i,ijk->jk", alpha, sigma)
    matrix = np.array([[np.trace(s @ jones @ t @ jones.conj().T).real / 2 for t in sigma] for s in sigma])
    np.testing.assert_allclose(pol.matrix(pol.from_rotation_vector(2 * alpha)), matrix, atol=1e-14)


def test_exponential_map_is_smooth_at_zero(dtype):
    tiny = np.array([[0, 0, 0], [1e-12, 0, 0], [0.019, 0.005, 0], [0.021, 0, 0]], dtype)
    np.testing.assert_allclose(
        pol.matrix(pol.from_rotation_vector(tiny)), Rotation.from_rotvec(tiny).as_matrix(), atol=4 * np.finfo(dtype).eps
    )
    turned = jax.jit(jax.jacobian(lambda v: pol.rotate(pol.from_rotation_vector(v), jnp.array([1.0, 0, 0]))))
    jacobian = turned(tiny[0])
    np.testing.assert_allclose(jacobian, [[0, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-7)


def test_norm_survives_1e5_float32_steps():
    normals = jax.random.normal(jax.random.key(0), (100_000, 3))

    @jax.jit
    def run(normals):
        return jax.lax.scan(lambda q, z: (pol.walk(q, 0.05, z), None), pol.identity(), normals)[0]

    assert abs(float(jnp.linalg.norm(run(normals))) - 1) < 2e-7


def test_walk_has_the_published_mean_overlap():
    """Czegledi 2016: 20 000 fibres, 50 steps of 0.1 rad per Stokes axis; also isotropic over the three axes."""
    tau_s, dt_s, steps, fibres = 100.0, 1.0, 50, 20_000
    step = pol.walk_step_rad(dt_s, tau_s)
    normals = jax.random.normal(jax.random.key(1), (steps, fibres, 3))
    start = jnp.broadcast_to(pol.identity(), (fibres, 4))
    final = jax.jit(lambda n: jax.lax.scan(lambda q, z: (pol.walk(q, step, z), None), start, n)[0])(normals)
    expected = float(pol.mean_overlap(step**2 / 4, steps))
    assert expected == pytest.approx(np.exp(-steps * dt_s / tau_s), rel=3e-3)  # the decorrelation time is tau
    for axis in range(3):
        overlap = np.asarray(pol.entry(final, axis, axis), np.float64)
        assert abs(overlap.mean() - expected) < 4.5 * overlap.std() / np.sqrt(fibres)
    qber = np.asarray(pol.basis_qber(final, 0), np.float64).mean()
    assert qber == pytest.approx(float(pol.mean_uncompensated_qber(step**2 / 4, steps)), abs=6e-3)


def test_qber_follows_from_the_matrix_and_keeps_small_angles(dtype):
    a = A.astype(dtype)
    for axis in (0, 1):
        diagonal = scipy_rotation(A).as_matrix()[:, axis, axis]
        expected = 0.012 + (1 - 0.024) * (1 - diagonal) / 2
        np.testing.assert_allclose(pol.basis_qber(a, axis, dtype.type(0.012)), expected, atol=8 * np.finfo(dtype).eps)
    tiny = pol.from_rotation_vector(np.array([0, 0, 1e-4], dtype))
    np.testing.assert_allclose(pol.basis_qber(tiny, 0), np.sin(0.5e-4) ** 2, rtol=20 * np.finfo(dtype).eps)


def test_bases_fail_apart(dtype):
    """A turn about S1 spares the Z basis and ruins X."""
    turn = pol.from_axis_angle(np.array([1, 0, 0], dtype), dtype.type(1.0))
    assert float(pol.basis_qber(turn, 0)) == 0
    np.testing.assert_allclose(pol.basis_qber(turn, 1), np.sin(0.5) ** 2, rtol=1e-6)


def test_mismatched_bases_see_the_off_diagonal(x64):
    matrix = scipy_rotation(A).as_matrix()
    np.testing.assert_allclose(pol.mismatched_excess(A, 0, 1), matrix[:, 1, 0], atol=1e-14)
    np.testing.assert_allclose(pol.mismatched_excess(A, 1, 0), matrix[:, 0, 1], atol=1e-14)


def test_random_rotations_are_uniform():
    q = pol.random_rotation(jax.random.normal(jax.random.key(2), (40_000, 4)))
    matrices = np.asarray(pol.matrix(q), np.float64)
    assert np.max(np.abs(matrices.mean(axis=0))) < 4.5 / np.sqrt(3 * 40_000)
    np.testing.assert_allclose((matrices**2).mean(axis=0), 1 / 3, atol=0.01)


def test_play_is_hysteresis():
    position, trace = 0.0, []
    for command in (0.5, 0.45, 0.35, 0.25, 0.35, 0.5):
        position = float(pol.play(position, command, 0.1))
        trace.append(position)
    np.testing.assert_allclose(trace, [0.4, 0.4, 0.4, 0.35, 0.35, 0.4], atol=1e-6)
    assert float(pol.play(0.7, 0.2, 0.0)) == pytest.approx(0.2)


def test_slew_is_limited_in_speed_and_range():
    voltages = pol.slew(jnp.array([0.0, 0.0, 6.2]), jnp.array([0.2, -9.0, 1.0]), 0.5, 6.28)
    np.testing.assert_allclose(voltages, [0.2, -0.5, 6.28], rtol=1e-6)


def test_squeezers_compose_in_order(x64):
    axes = V[:4] / np.linalg.norm(V[:4], axis=-1, keepdims=True)
    gains, x = np.array([1.0, 0.8, 1.2, 1.1]), np.array([0.3, -0.7, 1.9, -2.5])
    train = pol.Squeezers(axes, gains, np.zeros(4))
    expected = Rotation.identity()
    for axis, angle in zip(axes, gains * x, strict=True):
        expected = Rotation.from_rotvec(axis * angle) * expected
    np.testing.assert_allclose(pol.matrix(pol.squeezer_rotation(train, x)), expected.as_matrix(), atol=1e-14)
    batch = pol.squeezer_rotation(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), train), np.stack([x, x]))
    assert batch.shape == (2, 4)


def test_four_squeezers_reach_any_state(x64):
    """The gradient of the error rates leads them from any start to a compensated channel."""
    channel = pol.random_rotation(jnp.array([0.3, -0.8, 0.4, 0.9]))

    @jax.jit
    def run(x):
        def loss(x):
            net = pol.compose(pol.squeezer_rotation(pol.Squeezers(), x), channel)
            return pol.basis_qber(net, 0) + pol.basis_qber(net, 1)

        x = jax.lax.fori_loop(0, 400, lambda _, x: x - 0.5 * jax.grad(loss)(x), x)
        return loss(x)

    assert float(run(jnp.array([0.1, 0.2, -0.1, 0.3]))) < 1e-8
