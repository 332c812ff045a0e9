"""A Bayesian controller of polarisation: many joint guesses of where the light is and of what the knobs do.

Two-basis data tell sizes of misalignments, and hardly their signs; the pigtail turns every knob's effect by an unknown
rotation. So the belief has many peaks, and one Kalman filter is not enough. Here each particle holds a net rotation
together with a Kalman filter of its own for the unit (pigtail, axes, gains), conditioned on the path of that particle:
a Rao-Blackwellised particle filter (Doucet, de Freitas, Murphy, Russell, UAI 2000). Signs need no resolving: the
half turn about S3 maps every unit and channel onto one with equal readings, and controls that align one align both.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qkd_gym.envs.calibration.polarization import NOMINAL_AXES, REFERENCES, Reading, decode
from qkd_gym.evaluation.agent import Agent
from qkd_gym.physics import polarization as pol

#: Tolerances of a unit as its maker states them: of each axis component (rad), of the logarithm of a gain.
AXIS_TOLERANCE_RAD, GAIN_TOLERANCE = 0.25, 0.25
#: How often a candidate is drawn as if the cable had been handled, how often that is believed, and by how much.
_JUMP_DRAWN, _JUMP_PROB, _JUMP_RAD = 1 / 8, 1e-3, 0.4
#: Mean extra error rate per squared misalignment about S1, S2, S3: S1 harms the X basis, S2 the Z basis, S3 both.
ERROR_PER_SQUARE = (0.125, 0.125, 0.25)

_AXES = np.asarray(NOMINAL_AXES, np.float32)
#: Two directions across each nominal axis, (4, 2, 3).
_ACROSS = np.asarray([[[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]]] * 2, np.float32)
_LEVI_CIVITA = np.zeros((3, 3, 3), np.float32)
for _i, _j, _k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _LEVI_CIVITA[_i, _j, _k], _LEVI_CIVITA[_j, _i, _k] = 1, -1


class Unit(NamedTuple):
    """A controller: where its pigtail turns, tilts of the axes across their nominal directions, logs of the gains."""

    frame: Any  # (n, 3, 3)
    tilts: Any  # (n, 4, 2)
    log_gains: Any  # (n, 4)


class Belief(NamedTuple):
    """Particles of the filter."""

    params: Any  # public constants
    unit: Unit
    spread: Any  # (n, 15, 15) covariance of frame (3, rad), tilts (8), log gains (4)
    net: Any  # (n, 3, 3) net rotation of the light
    position: Any  # (n, 4) squeezers behind their backlash
    time: Any  # i32 ()


class Effect(NamedTuple):
    """What a change of positions does."""

    turn: Any  # (n, 3, 3) rotation that it multiplies to the net one
    slopes: Any  # (n, 3, 15) of its rotation vector against the unit's unknowns
    jacobian: Any  # (n, 3, 4) rotation vector per rad of each position, from the new positions


def rotation(vectors: Float[Array, "... 3"]) -> Float[Array, "... 3 3"]:
    """Matrices of rotation vectors (Rodrigues)."""
    squared = jnp.sum(vectors * vectors, axis=-1)[..., None, None] + 1e-12
    angle = jnp.sqrt(squared)
    cross = -jnp.einsum("ijk,...k->...ij", _LEVI_CIVITA, vectors)
    twice = jnp.einsum("...ij,...jk->...ik", cross, cross)
    one = jnp.broadcast_to(jnp.eye(3, dtype=cross.dtype), cross.shape)
    return one + jnp.sin(angle) / angle * cross + (1 - jnp.cos(angle)) / squared * twice


def rotation_vector(matrices: Float[Array, "... 3 3"]) -> Float[Array, "... 3"]:
    """Inverse of `rotation` for angles below pi; near pi the direction is rough, its size is not."""
    m = matrices
    sine_axis = 0.5 * jnp.stack(
        [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], axis=-1
    )
    cosine = jnp.clip(0.5 * (m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2] - 1), -0.9999, 1 - 1e-6)
    return sine_axis * (jnp.arccos(cosine) / jnp.sqrt(1 - cosine * cosine))[..., None]


def _axes_and_gains(unit: Unit) -> tuple[Array, Array]:
    axes = _AXES[None] + jnp.einsum("nkt,ktc->nkc", unit.tilts, _ACROSS)
    return axes / jnp.sqrt(jnp.sum(axes * axes, axis=-1, keepdims=True)), jnp.exp(unit.log_gains)


def _train(frame: Array, axes: Array, angles: Array) -> tuple[Array, Array, Array]:
    """Rotations behind each squeezer (n, 4, 3, 3), of all (n, 3, 3), and the axes seen from the analyser (n, 4, 3)."""
    single = rotation(axes * angles[..., None])
    behind: list[Any] = [None] * 4
    total = frame
    for k in (3, 2, 1, 0):
        behind[k] = total
        total = jnp.einsum("nij,njk->nik", total, single[:, k])
    stacked = jnp.stack(behind, axis=1)
    return stacked, total, jnp.einsum("nkij,nkj->nki", stacked, axes)


def _tilt_slopes(behind: Array, axes: Array, angles: Array) -> Float[Array, "n 3 4 2"]:
    """Rotation vector per rad of tilt: sin(a) t + (1 - cos a) axis x t, seen from the analyser."""
    across = jnp.broadcast_to(_ACROSS, (*axes.shape[:-1], 2, 3))
    crossed = _cross(axes[:, :, None], across)
    sine, versine = jnp.sin(angles)[..., None, None], 1 - jnp.cos(angles)[..., None, None]
    return jnp.einsum("nkij,nktj->nikt", behind, sine * across + versine * crossed)


def _cross(a: Array, b: Array) -> Array:
    a, b = jnp.broadcast_arrays(a, b)
    return jnp.einsum("ijk,...j,...k->...i", _LEVI_CIVITA, a, b)


def effect_of(unit: Unit, before: Float[Array, "n 4"], after: Float[Array, "n 4"]) -> Effect:
    """What moving the squeezers from `before` to `after` does, and how that depends on the unit."""
    axes, gains = _axes_and_gains(unit)
    behind_0, total_0, seen_0 = _train(unit.frame, axes, gains * before)
    behind_1, total_1, seen_1 = _train(unit.frame, axes, gains * after)
    turn = jnp.einsum("nij,nkj->nik", total_1, total_0)
    by_gain = jnp.einsum("nk,nki->nik", gains * after, seen_1) - jnp.einsum(
        "nij,nk,nkj->nik", turn, gains * before, seen_0
    )
    by_tilt = _tilt_slopes(behind_1, axes, gains * after) - jnp.einsum(
        "nij,njkt->nikt", turn, _tilt_slopes(behind_0, axes, gains * before)
    )
    by_frame = jnp.eye(3, dtype=turn.dtype)[None] - turn
    slopes = jnp.concatenate([by_frame, by_tilt.reshape(-1, 3, 8), by_gain], axis=-1)
    return Effect(turn, slopes, jnp.einsum("nk,nki->nik", gains, seen_1))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes of the filter: they select a program."""

    particles: int = 256
    candidates: int = 16


def log_likelihood(
    reading: Reading, params: Any, first: list[list[Array]], second: list[list[Array]], noise_floor: Any
) -> Array:
    """Of the step's readings, given the upper left blocks of the net rotation in both halves of the step."""
    visibility = 1 - 2 * params.optical_error

    def gauss(seen: Array, entry: Array, sign: float, trials: Any) -> Array:
        expected = jnp.clip(0.5 * (1 + sign * visibility * entry), 1e-3, 1 - 1e-3)
        variance = expected * (1 - expected) / jnp.maximum(trials, 1) + noise_floor * noise_floor
        return -0.5 * ((seen - expected) * (seen - expected) / variance + jnp.log(variance))

    mean = [[0.5 * (first[i][j] + second[i][j]) for j in (0, 1)] for i in (0, 1)]
    total = gauss(reading.qber_z, mean[0][0], -1, reading.clicks_z) + gauss(
        reading.qber_x, mean[1][1], -1, reading.clicks_x
    )
    trials = 0.125 * params.reference_clicks_per_s * params.step_s * reading.action[4]
    for slot, (i, j) in enumerate(REFERENCES["two_basis"]):
        bought = gauss(0.5 * (1 + reading.reference[slot]), mean[i][j], 1, trials)
        total = total + jnp.where(reading.bought, bought, 0.0)
    return total


def _turned(vector: list[Array], columns: list[list[Array]], rows: int) -> list[list[Array]]:
    """Rows of the rotation of small `vector` times columns of a matrix; Cayley map, third order in the angle."""
    x, y, z = (0.5 * v for v in vector)
    scale = 1 / (1 + x * x + y * y + z * z)
    m = [
        [1 - 2 * scale * (y * y + z * z), 2 * scale * (x * y - z), 2 * scale * (x * z + y)],
        [2 * scale * (x * y + z), 1 - 2 * scale * (x * x + z * z), 2 * scale * (y * z - x)],
        [2 * scale * (x * z - y), 2 * scale * (y * z + x), 1 - 2 * scale * (x * x + y * y)],
    ]
    return [[sum(m[i][k] * columns[k][j] for k in range(3)) for j in range(len(columns[0]))] for i in range(rows)]


def _cholesky(matrices: Float[Array, "n 3 3"]) -> Float[Array, "n 3 3"]:
    s = matrices
    a = jnp.sqrt(s[:, 0, 0])
    b, c = s[:, 1, 0] / a, s[:, 2, 0] / a
    d = jnp.sqrt(jnp.maximum(s[:, 1, 1] - b * b, 1e-12))
    e = (s[:, 2, 1] - b * c) / d
    f = jnp.sqrt(jnp.maximum(s[:, 2, 2] - c * c - e * e, 1e-12))
    zero = jnp.zeros_like(a)
    rows = [jnp.stack(row, axis=-1) for row in ([a, zero, zero], [b, d, zero], [c, e, f])]
    return jnp.stack(rows, axis=-2)


def _inverse(matrices: Float[Array, "n 3 3"]) -> Float[Array, "n 3 3"]:
    a, b, c = (matrices[:, i] for i in range(3))
    bc = _cross(b, c)
    determinant = jnp.sum(a * bc, axis=-1)[:, None]
    return jnp.stack([bc, _cross(c, a), _cross(a, b)], axis=-1) / determinant[..., None]


def start_belief(key: Any, params: Any, particles: int, frame_spread_rad: Any) -> Belief:
    """The prior: pigtail uniform, axes and gains within the maker's tolerances, light nearly aligned."""
    k_frame, k_net, k_play = jax.random.split(key, 3)
    variances = jnp.concatenate(
        [
            jnp.full(3, frame_spread_rad**2),
            jnp.full(8, AXIS_TOLERANCE_RAD**2),
            jnp.full(4, GAIN_TOLERANCE**2),
        ]
    ).astype(jnp.float32)
    n = particles
    play = params.backlash_rad * jax.random.uniform(k_play, (n, 4), jnp.float32, -1, 1)
    return Belief(
        params=params,
        unit=Unit(
            frame=pol.matrix(pol.random_rotation(jax.random.normal(k_frame, (n, 4), jnp.float32))),
            tilts=jnp.zeros((n, 4, 2), jnp.float32),
            log_gains=jnp.zeros((n, 4), jnp.float32),
        ),
        spread=jnp.broadcast_to(jnp.diag(variances), (n, 15, 15)),
        net=rotation(params.start_offset_rad * jax.random.normal(k_net, (n, 3), jnp.float32)),
        position=play,  # about the voltages, which the first observation shows
        time=jnp.int32(0),
    )


def advance(key: Any, belief: Belief, reading: Reading, walk_rad: Any, noise_floor: Any, candidates: int) -> Belief:
    """The belief after a step whose readings are in."""
    params, n, m = belief.params, belief.net.shape[0], candidates
    k_move, k_pick = jax.random.split(key)
    after = pol.play(belief.position, reading.voltage_rad[None], params.backlash_rad)
    effect = effect_of(belief.unit, belief.position, after)
    expected = jnp.einsum("nij,njk->nik", effect.turn, belief.net)

    # candidates: what the unit's uncertainty, the walk, and rarely a jump, may have added
    half = 0.5 * walk_rad * walk_rad
    crossed = jnp.einsum("nij,njk->nik", effect.slopes, belief.spread)
    covariance = jnp.einsum("nij,nkj->nik", crossed, effect.slopes) + half * jnp.eye(3, dtype=jnp.float32)[None]
    root = _cholesky(covariance)
    z = jax.random.normal(k_move, (6, n, m), jnp.float32)
    jumps = jnp.arange(m) < round(m * _JUMP_DRAWN)
    wide = jnp.where(jumps, _JUMP_RAD, 0.0)[None]
    shift = [
        sum((root[:, i, k, None] * z[k] for k in range(1, i + 1)), root[:, i, 0, None] * z[0]) + wide * z[5 - i]
        for i in range(3)
    ]
    later = [jnp.sqrt(half) * z[3 + i] for i in range(3)]
    columns = [[expected[:, i, j, None] for j in (0, 1)] for i in range(3)]
    first = _turned(shift, columns, 3)
    second = _turned(later, first, 2)
    weight = log_likelihood(reading, params, first, second, noise_floor)
    weight = weight + jnp.where(jumps, np.log(_JUMP_PROB / _JUMP_DRAWN), 0.0)[None]

    # survivors, drawn systematically
    flat = weight.reshape(-1)
    cumulative = jnp.cumsum(jnp.exp(flat - jnp.max(flat)))
    points = (jnp.arange(n) + jax.random.uniform(k_pick, (), jnp.float32)) / n * cumulative[-1]
    chosen = jnp.clip(jnp.searchsorted(cumulative, points), 0, n * m - 1)
    parent = chosen // m
    moved = jnp.stack([s.reshape(-1)[chosen] for s in shift], axis=-1)
    walked = jnp.stack([s.reshape(-1)[chosen] for s in later], axis=-1)
    net = jnp.einsum("nij,njk,nkl->nil", rotation(walked), rotation(moved), expected[parent])

    # each survivor's unit, from the turn that it was drawn with; a jump says nothing about the unit
    gain = jnp.einsum("nji,njk->nik", crossed, _inverse(covariance))
    spread = belief.spread - jnp.einsum("nij,njk->nik", gain, crossed)
    jumped = jumps[chosen % m]
    change = jnp.where(jumped[:, None], 0.0, jnp.einsum("nij,nj->ni", gain[parent], moved))
    unit = jax.tree.map(lambda x: x[parent], belief.unit)
    return Belief(
        params=params,
        unit=Unit(
            frame=jnp.einsum("nij,njk->nik", rotation(change[:, :3]), unit.frame),
            tilts=unit.tilts + change[:, 3:11].reshape(n, 4, 2),
            log_gains=unit.log_gains + change[:, 11:],
        ),
        spread=jnp.where(jumped[:, None, None], belief.spread[parent], spread[parent]),
        net=net,
        position=after[parent],
        time=belief.time + 1,
    )


def best_move(belief: Belief, damping: Any, centring: Any) -> tuple[Array, Array]:
    """Change of position (4,) that makes the expected extra error least, and that error.

    Averaged over the particles, so that doubt about the map makes for small steps; `centring` leads unused freedom back
    to the middle of the range.
    """
    jacobian = effect_of(belief.unit, belief.position, belief.position).jacobian
    error = rotation_vector(belief.net)
    weights = jnp.asarray(ERROR_PER_SQUARE, jnp.float32)
    n = error.shape[0]
    curvature = jnp.einsum("nik,i,nil->kl", jacobian, weights, jacobian) / n + damping * jnp.eye(4, dtype=jnp.float32)
    slope = jnp.einsum("nik,i,ni->k", jacobian, weights, error) / n
    middle = jnp.mean(belief.position, axis=0)
    move = -jnp.linalg.solve(curvature, slope + damping * centring * middle)
    move = jnp.clip(move, -belief.params.slew_rad, belief.params.slew_rad)
    left = error + jnp.einsum("nik,k->ni", jacobian, move)
    return move, jnp.mean(left * left @ weights)


def through_backlash(move: Array, position: Array, voltage: Array, backlash_rad: Any) -> Float[Array, "4"]:
    """Voltage change that moves the squeezers by `move`: past the dead play, on the side it has to push from."""
    return position + move + backlash_rad * jnp.tanh(200 * move) - voltage


@dataclasses.dataclass(frozen=True)
class BeliefFilter(Agent[Belief]):
    """Signed two-basis filter, joint in light and unit, with cautious control.

    It starts by shaking all squeezers under reference light; afterwards it buys a reading when the error that it
    expects to be left after its best move passes `threshold`. Constants were chosen by hand on the tuning seed 11, with
    16 to 32 episodes: `probe_rad` of 0.15 loses the light more often than 0.1; `threshold` from 0.002 to 0.005, `share`
    from 0.05 to 0.1 and twice the particles make no difference that this tells apart.

    Args:
        walk_rad: walk per step and axis that it reckons with.
        noise_floor: of an error rate, so that finitely many candidates can match one; starts at `first_floor`.
    """

    sizes: Sizes = Sizes()
    walk_rad: Any = 0.045
    noise_floor: Any = 0.004
    first_floor: Any = 0.02
    frame_spread_rad: Any = 0.5
    probe_steps: Any = 20
    probe_rad: Any = 0.1
    probe_share: Any = 0.2
    share: Any = 0.05
    threshold: Any = 0.003
    damping: Any = 0.01
    centring: Any = 0.01
    role: ClassVar[str] = "practice"

    def init(self, key, env, params):
        return start_belief(key, params, self.sizes.particles, self.frame_spread_rad)

    def act(self, key, carry, obs, mask):
        params, reading = carry.params, decode(obs, carry.params)
        k_filter, k_probe = jax.random.split(key)
        start = carry.time == 0
        carry = carry._replace(position=jnp.where(start, carry.position + reading.voltage_rad[None], carry.position))
        floor = self.noise_floor + self.first_floor * jnp.exp(-0.2 * carry.time)
        after = advance(k_filter, carry, reading, self.walk_rad, floor, self.sizes.candidates)
        # The first observation shows voltages and no counts.
        belief = jax.tree.map(lambda a, b: jnp.where(start, a, b), carry, after)._replace(time=carry.time + 1)
        move, left = best_move(belief, self.damping, self.centring)
        probing = carry.time < self.probe_steps
        probe = self.probe_rad * jax.random.normal(k_probe, (4,), jnp.float32)
        middle = jnp.mean(belief.position, axis=0)
        push = through_backlash(move + jnp.where(probing, probe, 0.0), middle, reading.voltage_rad, params.backlash_rad)
        share = jnp.where(probing, self.probe_share, jnp.where(left > self.threshold, self.share, 0.0))
        buy = jnp.where(share > 0, 2 * share, -1.0)
        return jnp.concatenate([jnp.clip(push / params.slew_rad, -1, 1), buy[None]]), belief
