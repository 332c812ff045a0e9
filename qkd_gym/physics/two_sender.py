"""What protocols with two senders and an untrusted middle share: arms, Bessel excess, block security.

Two senders at either end of a link meet at a middle node; each arm transmits the square root of the whole when the node
sits in the middle.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.finite_key import expectation_bounds, observation_bounds
from qkd_gym.physics.information import NEPER_PER_DB, as_float
from qkd_gym.physics.numerics import ratio

#: Terms of the Bessel series; the first one left out is below 1e-19 of the sum up to z = 10.
_SERIES_TERMS = 27


@struct.dataclass
class BlockSecurity:
    """Failure probabilities that a block of a two-sender protocol is held to."""

    eps_per_bound: Any = struct.field(
        default=1e-10, low=1e-30, high=1.0, doc="of each Chernoff bound, of smoothing and of privacy amplification"
    )
    eps_cor: Any = struct.field(default=1e-15, low=1e-30, high=1.0, doc="correctness parameter")


def arm_transmittance_from_db(loss_db: ArrayLike) -> Float[Array, "..."]:
    """Transmittance 10^(-loss/20) of one arm, of a link with `loss_db` in total and the node in its middle."""
    (loss,) = as_float(loss_db)
    return jnp.exp(-0.5 * NEPER_PER_DB * loss)


def bessel_excess(quarter_square: ArrayLike) -> Float[Array, "..."]:
    """I0(z) - 1 as a function of z^2 / 4: sum over k >= 1 of (z^2/4)^k / k!^2, no difference of near equals.

    In the square, the derivative at z = 0 is finite for z = sqrt(a b) too. Exact to rounding for z <= 10.
    """
    (w,) = as_float(quarter_square)
    total = jnp.ones_like(w)
    for k in range(_SERIES_TERMS, 1, -1):
        total = 1 + w / (k * k) * total
    return w * total


def rate_bounds(count: ArrayLike, pulses: ArrayLike, log_term: ArrayLike) -> tuple[Array, Array]:
    """Chernoff bounds (lower, upper) on the probability behind `count` events in `pulses`; `log_term` = ln(1/eps).

    (0, 1) where nothing was sent; no more than 1, whatever the count.
    """
    n, sent, b = as_float(count, pulses, log_term)
    low, high = expectation_bounds(n, b)
    return jnp.minimum(ratio(low, sent), 1), jnp.minimum(ratio(high, sent, otherwise=1.0), 1)


def certain_count(expected: ArrayLike, log_term: ArrayLike) -> Float[Array, "..."]:
    """Chernoff lower bound on a count whose mean is at least `expected`; 0, with derivative 0, for a mean of 0."""
    x, b = as_float(expected, log_term)
    positive = x > 0
    return jnp.where(positive, observation_bounds(jnp.where(positive, x, 1), b)[0], 0)


def sampled_error(count: ArrayLike, error: ArrayLike, log_term: ArrayLike) -> Float[Array, "..."]:
    """Chernoff upper bound on the error rate of `count` events whose mean rate is at most `error`, no more than 1/2.

    1/2 where there are none.
    """
    n, e, b = as_float(count, error, log_term)
    # O^U(n e)/n = e + b/2n + sqrt(2 (b/n) e + (b/2n)^2), with nothing larger than 1 under the root
    share = ratio(b, n, otherwise=1.0)
    inside = share * (2 * e + share / 4)
    root = jnp.where(inside > 0, jnp.sqrt(jnp.where(inside > 0, inside, 1)), 0)
    return jnp.where(n > 0, jnp.minimum(e + share / 2 + root, 0.5), 0.5)
