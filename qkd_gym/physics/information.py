"""Entropies and the bounds that no repeaterless link can pass.

Logarithms are base 2. `transmittance` is the fraction of light that arrives, in [0, 1]. Whether it contains the
detector is the caller's statement: with the fibre alone the bounds are absolute, with the detector they are relative.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

LN2 = math.log(2.0)
#: ln(10)/10: a loss in dB times this is a loss in nepers of power.
NEPER_PER_DB = math.log(10.0) / 10.0


def as_float(*values: ArrayLike) -> tuple[Array, ...]:
    """The values as arrays of their common floating-point precision; Python numbers adapt to the arrays beside them."""
    dtype = jnp.result_type(*jax.tree.leaves(values), 1.0)
    return tuple(jnp.asarray(v, dtype) for v in values)


@jax.custom_jvp
def _entropy(x: Array) -> Array:
    one_minus = 1 - x
    a = jnp.where(x > 0, x * jnp.log(jnp.where(x > 0, x, 1)), 0)
    b = jnp.where(one_minus > 0, one_minus * jnp.log1p(-jnp.where(one_minus > 0, x, 0)), 0)
    inside = (x >= 0) & (x <= 1)
    return jnp.where(inside, -(a + b) / LN2, jnp.nan)


@_entropy.defjvp
def _entropy_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    info = jnp.finfo(x.dtype)
    inner = jnp.clip(x, max(float(info.tiny), 1e-15), 1 - info.epsneg)  # the slope diverges at both ends
    return _entropy(x), dx * (jnp.log1p(-inner) - jnp.log(inner)) / LN2


def binary_entropy(x: ArrayLike) -> Float[Array, "..."]:
    """Shannon entropy h(x) = -x log2 x - (1-x) log2(1-x) of a coin, in bit; h(0) = h(1) = 0.

    The derivative is finite everywhere (evaluated no closer to the ends than 1e-15). h rises again below 1 and falls
    above 1/2: a phase error above 1/2 must be brought to 1/2 *before* it comes here, or a rate turns falsely positive.

    Args:
        x: probability, any shape.
    Raises:
        ValueError: if a concrete `x` lies outside [0, 1]; a traced one gives NaN there.
    """
    (x,) = as_float(x)
    if not isinstance(x, Tracer):
        values = np.asarray(x)
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError(
                f"binary_entropy takes probabilities in [0, 1], got values in [{values.min():g}, {values.max():g}]; "
                "clip an estimated error rate to 1/2 first"
            )
    return _entropy(x)


def shor_preskill_fraction(qber: ArrayLike) -> Float[Array, "..."]:
    """Asymptotic key per sifted bit of BB84 with equal bit and phase errors, 1 - 2 h(e); negative above e = 0.1100279.

    Shor and Preskill, Phys. Rev. Lett. 85, 441 (2000).
    """
    return 1 - 2 * binary_entropy(qber)


def _log_one_minus_exp(x: Array) -> Array:
    """ln(1 - e^-x) for x >= 0 to full precision at both ends; -inf at 0."""
    small = x < LN2
    near = jnp.where(small & (x > 0), x, 1)
    far = jnp.where(small, 1, x)
    return jnp.where(small, jnp.where(x > 0, jnp.log(-jnp.expm1(-near)), -jnp.inf), jnp.log1p(-jnp.exp(-far)))


def plob_bound(transmittance: ArrayLike) -> Float[Array, "..."]:
    """Secret-key capacity of a pure-loss channel, -log2(1 - eta), bit per mode and use; inf at eta = 1.

    Pirandola, Laurenza, Ottaviani, Banchi, Nat. Commun. 8, 15043 (2017). A polarisation or time-bin pulse holds two
    modes, so quote "per pulse" with care.
    """
    (eta,) = as_float(transmittance)
    return -jnp.log1p(-eta) / LN2


def plob_bound_from_loss(loss_db: ArrayLike) -> Float[Array, "..."]:
    """`plob_bound` from a loss in dB, exact also where eta rounds to 1."""
    (loss,) = as_float(loss_db)
    return -_log_one_minus_exp(loss * NEPER_PER_DB) / LN2


def tgw_bound(transmittance: ArrayLike) -> Float[Array, "..."]:
    """The older, looser bound log2((1+eta)/(1-eta)), bit per mode and use; inf at eta = 1.

    Takeoka, Guha, Wilde, Nat. Commun. 5, 5235 (2014).
    """
    (eta,) = as_float(transmittance)
    return (jnp.log1p(eta) - jnp.log1p(-eta)) / LN2


def tgw_bound_from_loss(loss_db: ArrayLike) -> Float[Array, "..."]:
    """`tgw_bound` from a loss in dB, exact also where eta rounds to 1."""
    (loss,) = as_float(loss_db)
    nepers = loss * NEPER_PER_DB
    return (jnp.log1p(jnp.exp(-nepers)) - _log_one_minus_exp(nepers)) / LN2


def middle_node_bound(transmittance: ArrayLike) -> Float[Array, "..."]:
    """Capacity with one untrusted node in the middle, -log2(1 - sqrt(eta)), eta that of the *whole* link.

    Pirandola, Commun. Phys. 2, 51 (2019). The benchmark of the twin-field family.
    """
    (eta,) = as_float(transmittance)
    safe = jnp.where(eta > 0, eta, 1)
    return jnp.where(eta > 0, -jnp.log1p(-jnp.sqrt(safe)) / LN2, 0)


def inverse_binary_entropy(entropy: ArrayLike) -> Float[Array, "..."]:
    """The x in [0, 1/2] with h(x) = `entropy` in [0, 1]; differentiable away from the ends."""
    (h,) = as_float(entropy)
    # In u = -ln x the root is well conditioned at either end; bisection cannot fail.
    low, high = jnp.full_like(h, LN2), jnp.full_like(h, -math.log(float(jnp.finfo(h.dtype).tiny)))

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = bracket
        middle = (a + b) / 2
        above = _entropy(jnp.exp(-middle)) > h
        return jnp.where(above, middle, a), jnp.where(above, b, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (low, high))
    x = jax.lax.stop_gradient(jnp.minimum(jnp.exp(-(low + high) / 2), 0.5))
    # One Newton step carries the derivative of the inverse.
    slope = (jnp.log1p(-x) - jnp.log(x)) / LN2
    steep = slope > 1e-3
    newton = x - (_entropy(x) - h) / jnp.where(steep, slope, 1)
    return jnp.where(h <= 0, 0, jnp.where(h >= 1, 0.5, jnp.where(steep, newton, x)))
