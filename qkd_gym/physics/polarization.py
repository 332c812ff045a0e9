"""Polarisation as rotations of the Poincare sphere: quaternions, drift, squeezers, error rates.

A rotation is a unit quaternion `(..., 4)` = (w, x, y, z), the SU(2) element w - i (x, y, z).sigma, which turns Stokes
vectors by the angle 2 acos(w) about (x, y, z). Twice the Jones angle is the Stokes angle. Stokes axes: S1 carries the
Z basis (H/V), S2 the X basis (diagonal), S3 is circular. Products of quaternions stay rotations up to a norm that
`normalize` restores, in float32 too: the drift of the norm is 1e-7 a product.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float
from qkd_gym.physics.numerics import sin_cos, stored


@struct.dataclass
class Squeezers:
    """A train of fibre squeezers: each turns the state about its own axis by gain x (voltage behind backlash)."""

    axes: Any = struct.field(default=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        low=-1.0, high=1.0, doc="unit Stokes axes (..., n, 3), in the order that light meets them",
    )  # fmt: skip
    gains: Any = struct.field(
        default=(1.0, 1.0, 1.0, 1.0), unit="rad/rad", low=0.0, high=10.0, doc="turn per command (..., n)"
    )
    backlash: Any = struct.field(
        default=(0.0, 0.0, 0.0, 0.0),
        unit="rad",
        low=0.0,
        high=3.2,
        doc="half width of the dead play of each command (..., n)",
    )


def identity() -> Float[Array, "4"]:
    """The rotation that does nothing."""
    return jnp.array([1.0, 0.0, 0.0, 0.0])


def from_rotation_vector(vector: ArrayLike) -> Float[Array, "... 4"]:
    """Rotation by |vector| rad of Stokes angle about its direction (exponential map); smooth and exact at zero.

    Args:
        vector: `(..., 3)`, rad.
    """
    (v,) = as_float(vector)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    half_squared = (x * x + y * y + z * z) / 4
    small = half_squared < 1e-4
    safe = jnp.where(small, 1, half_squared)
    half = jnp.sqrt(safe)
    # sin(h)/h and cos(h) by series near zero, where h itself has no derivative
    t = jnp.where(small, half_squared, 0)
    sin_half, cos_half = sin_cos(half)
    sinc = jnp.where(small, 1 - t / 6 * (1 - t / 20 * (1 - t / 42)), sin_half / half)
    cos = jnp.where(small, 1 - t / 2 * (1 - t / 12 * (1 - t / 30)), cos_half)
    cos, half_sinc = stored(cos), stored(sinc / 2)
    return jnp.stack([cos, x * half_sinc, y * half_sinc, z * half_sinc], axis=-1)


def from_axis_angle(axis: ArrayLike, angle: ArrayLike) -> Float[Array, "... 4"]:
    """Rotation by `angle` rad of Stokes angle `(...)` about unit `axis` `(..., 3)`."""
    a, theta = as_float(axis, angle)
    s, c = sin_cos(theta / 2)
    parts = jnp.broadcast_arrays(c, s * a[..., 0], s * a[..., 1], s * a[..., 2])
    return jnp.stack(parts, axis=-1)


def compose(second: ArrayLike, first: ArrayLike) -> Float[Array, "... 4"]:
    """The rotation `first`, then `second` (quaternion product second * first)."""
    a, b = as_float(second, first)
    aw, ax, ay, az = (a[..., i] for i in range(4))
    bw, bx, by, bz = (b[..., i] for i in range(4))
    product = (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
    return jnp.stack([stored(p) for p in product], axis=-1)


def inverse(rotation: ArrayLike) -> Float[Array, "... 4"]:
    """The rotation undone."""
    (q,) = as_float(rotation)
    return jnp.stack([q[..., 0], -q[..., 1], -q[..., 2], -q[..., 3]], axis=-1)


def normalize(rotation: ArrayLike) -> Float[Array, "... 4"]:
    """The unit quaternion along `rotation`; the identity where it vanishes."""
    (q,) = as_float(rotation)
    w, x, y, z = (q[..., i] for i in range(4))
    norm_squared = w * w + x * x + y * y + z * z
    valid = norm_squared > 0
    scale = jnp.where(valid, 1 / jnp.sqrt(jnp.where(valid, norm_squared, 1)), 0)
    return jnp.stack([jnp.where(valid, w * scale, 1), x * scale, y * scale, z * scale], axis=-1)


def random_rotation(normals: ArrayLike) -> Float[Array, "... 4"]:
    """A rotation uniform over all of them, from four standard normals `(..., 4)`."""
    return normalize(normals)


def matrix(rotation: ArrayLike) -> Float[Array, "... 3 3"]:
    """The 3x3 matrix that acts on Stokes vectors."""
    rows = [[entry(rotation, i, j) for j in range(3)] for i in range(3)]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def entry(rotation: ArrayLike, row: int, column: int) -> Float[Array, "..."]:
    """Entry (row, column) of `matrix`, axes 0, 1, 2 = S1, S2, S3, without the rest."""
    (q,) = as_float(rotation)
    w, v = q[..., 0], [q[..., 1 + i] for i in range(3)]
    if row == column:
        others = [v[i] for i in range(3) if i != row]
        return 1 - 2 * (others[0] * others[0] + others[1] * others[1])
    third = 3 - row - column
    sign = 1 if (column - row) % 3 == 2 else -1
    return 2 * (v[row] * v[column] + sign * w * v[third])


def rotate(rotation: ArrayLike, stokes: ArrayLike) -> Float[Array, "... 3"]:
    """Stokes vectors `(..., 3)` turned by the rotation."""
    q, s = as_float(rotation, stokes)
    m = [[entry(q, i, j) for j in range(3)] for i in range(3)]
    return jnp.stack([sum((m[i][j] * s[..., j] for j in range(1, 3)), m[i][0] * s[..., 0]) for i in range(3)], axis=-1)


# ---- drift --------------------------------------------------------------------------------------------------------


def walk_step_rad(step_s: ArrayLike, decorrelation_time_s: ArrayLike) -> Float[Array, "..."]:
    """Standard deviation per Stokes axis of one step of the walk, sqrt(dt/tau), with tau = 1 / (8 pi linewidth).

    Czegledi, Karlsson, Agrell, Johannisson, Sci. Rep. 6, 21217 (2016): a fibre's Jones matrix takes steps
    exp(-i alpha.sigma), alpha ~ N(0, (s/2)^2 I).
    """
    dt, tau = as_float(step_s, decorrelation_time_s)
    return jnp.sqrt(dt / tau)


def walk(rotation: ArrayLike, step_rad: ArrayLike, normals: ArrayLike) -> Float[Array, "... 4"]:
    """One step of the isotropic walk: `normals` `(..., 3)` are standard, `step_rad` `(...)` from `walk_step_rad`."""
    q, s, z = as_float(rotation, step_rad, normals)
    step = from_rotation_vector(jnp.stack([s * z[..., i] for i in range(3)], axis=-1))
    return normalize(compose(step, q))


def mean_overlap(jones_variance: ArrayLike, steps: ArrayLike) -> Float[Array, "..."]:
    """Mean Stokes overlap E[s.s0] after `steps` of the walk, ((1 + 2 (1 - 4 v) e^(-2 v)) / 3)^n, v per Jones component.

    `jones_variance` v = (walk_step_rad / 2)^2. About e^(-4 v n).
    """
    return jnp.exp(_log_overlap(*as_float(jones_variance, steps)))


def mean_uncompensated_qber(jones_variance: ArrayLike, steps: ArrayLike) -> Float[Array, "..."]:
    """Mean error rate of a basis left alone for `steps`, (1 - overlap) / 2, without cancellation for small drift."""
    return -jnp.expm1(_log_overlap(*as_float(jones_variance, steps))) / 2


def _log_overlap(v: Array, n: Array) -> Array:
    # the base of the power less one, 2/3 [(1 - 4v) e^(-2v) - 1]
    return n * jnp.log1p((jnp.expm1(-2 * v) - 4 * v * jnp.exp(-2 * v)) * (2 / 3))


# ---- actuators and error rates ------------------------------------------------------------------------------------


def play(position: ArrayLike, command: ArrayLike, half_width: ArrayLike) -> Float[Array, "..."]:
    """Backlash (the play operator): the follower moves only when the command pushes it from either side.

    Returns the new position, the point of [command - half_width, command + half_width] nearest to `position`.
    """
    x, u, r = as_float(position, command, half_width)
    return jnp.clip(x, u - r, u + r)


def slew(voltage: ArrayLike, increment: ArrayLike, max_step: ArrayLike, max_voltage: ArrayLike) -> Float[Array, "..."]:
    """A voltage moved by `increment`, limited in speed (`max_step` per step) and range (+-`max_voltage`)."""
    v, dv, step, limit = as_float(voltage, increment, max_step, max_voltage)
    return jnp.clip(v + jnp.clip(dv, -step, step), -limit, limit)


def squeezer_rotation(squeezers: Squeezers, positions: ArrayLike) -> Float[Array, "... 4"]:
    """Rotation of the whole train at the followers' `positions` `(..., n)` in rad (after `play`)."""
    axes, gains, x = as_float(squeezers.axes, squeezers.gains, positions)
    total = from_axis_angle(axes[..., 0, :], gains[..., 0] * x[..., 0])
    for i in range(1, axes.shape[-2]):
        total = compose(from_axis_angle(axes[..., i, :], gains[..., i] * x[..., i]), total)
    return total


def basis_qber(rotation: ArrayLike, stokes_axis: int, intrinsic_error: ArrayLike = 0.0) -> Float[Array, "..."]:
    """Error rate of the basis along a Stokes axis (0: Z, 1: X) behind the net `rotation`.

    e0 + (1 - 2 e0)(1 - R_ii)/2, formed from squares, so that small angles keep their digits in float32.
    """
    q, e0 = as_float(rotation, intrinsic_error)
    others = [q[..., 1 + i] for i in range(3) if i != stokes_axis]
    flipped = jnp.minimum(others[0] * others[0] + others[1] * others[1], 1)
    return e0 + (1 - 2 * e0) * flipped


def mismatched_excess(rotation: ArrayLike, sent_axis: int, measured_axis: int) -> Float[Array, "..."]:
    """Imbalance R_ij in [-1, 1] of a state sent along one axis and measured along another: P(first) = (1 + R_ij)/2."""
    return jnp.clip(entry(rotation, measured_axis, sent_axis), -1, 1)


def angle_rad(rotation: ArrayLike) -> Float[Array, "..."]:
    """Stokes angle of the rotation, in [0, pi]."""
    (q,) = as_float(rotation)
    x, y, z = (q[..., 1 + i] for i in range(3))
    squared = x * x + y * y + z * z
    valid: Bool[Array, "..."] = squared > 0
    sine = jnp.where(valid, jnp.sqrt(jnp.where(valid, squared, 1)), 0)
    return 2 * jnp.arctan2(sine, jnp.abs(q[..., 0]))
