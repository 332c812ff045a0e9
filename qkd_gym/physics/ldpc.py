"""Measured frame error rates of LDPC error correction.

`data/ldpc_fer.json` holds counts of decoded frames: codes of ours of 1e4 bits (progressive edge growth) and 6.4e4 bits
(quasi-cyclic), mother rates from 0.5 to 0.9, punctured and shortened ones between them (of 6.4e4 bits all but the
shortened 0.9). Sum-product decoding of syndromes over the binary symmetric channel; what it takes to repeat the counts
stands with them. `python -m benchmarks.ldpc` makes the table; `python -m benchmarks.ldpc --print` compares its
efficiencies with the finite-length bound. At a failure rate of 0.01 they are 0.12 (rate 0.5) to 0.3 (0.9) above it for
1e4 bits, 0.10 (0.5) to 0.14 (0.9; 0.18 punctured to 0.875) for 6.4e4. These codes can be built; they are not the best
there could be: for a family given by its threshold use `reconciliation.frame_error_rate`.

Between measured points the log-odds of failure are linear in the efficiency f = (1-R)/h(QBER); between measured rates
the efficiencies of equal log-odds are linear in the rate. Counts are made monotone (pooled neighbours, weighted by
frames) and estimated as (errors + 1/2)/(frames + 1). A point has at most 1,000 frames of 1e4 bits or 500 of 6.4e4 (200
beyond the waterfall), so that the least that a curve reads is 8e-4 to 1.3e-3 for 1e4 bits and 5e-4 to 8e-4 for 6.4e4:
neighbours without failure count together. That is the resolution of the table, not an error floor.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from qkd_gym.physics.information import as_float, binary_entropy

#: Frame error rates at which curves of different rates are matched.
LEVELS = (0.97, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.01)
#: Below the Shannon limit no code works: there the failure rate reads this.
HOPELESS = 0.9999
_TABLE = importlib.resources.files("qkd_gym") / "data" / "ldpc_fer.json"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Counts of one code along its waterfall; arrays [point], by rising efficiency (falling error rate).

    Attributes:
        block: bits of the mother code. mother_rate: its rate. punctured, shortened: bits taken from it.
        rate: of what is left, (R0 - s)/(1 - p - s). efficiency: (1 - rate)/h(qber).
        frames, errors: decoded, and not decoded to Alice's word. undetected: of these, with the right syndrome.
        mean_iterations: over all frames, failed ones with the decoder's maximum.
    """

    block: int
    mother_rate: float
    punctured: int
    shortened: int
    rate: float
    efficiency: np.ndarray
    qber: np.ndarray
    frames: np.ndarray
    errors: np.ndarray
    undetected: np.ndarray
    mean_iterations: np.ndarray

    @functools.cached_property
    def log_odds(self) -> np.ndarray:
        """Of failure, estimated and made to fall with the efficiency."""
        errors, frames = self.errors.astype(float), self.frames.astype(float)
        share, pooled = _falling(errors / frames, frames)
        estimate = (share * pooled + 0.5) / (pooled + 1)
        return _falling(np.log(estimate) - np.log1p(-estimate), frames)[0]

    @functools.cached_property
    def iterations(self) -> np.ndarray:
        """Mean iterations, made to fall with the efficiency."""
        return _falling(self.mean_iterations, self.frames.astype(float))[0]

    def efficiency_at(self, frame_error_rate: float) -> float:
        """Efficiency at which so many frames fail; held at the ends of what was measured."""
        level = np.log(frame_error_rate) - np.log1p(-frame_error_rate)
        return float(np.interp(-level, -self.log_odds, self.efficiency))


@functools.cache
def curves() -> tuple[Curve, ...]:
    """Every measured curve, punctured and shortened ones among them."""
    record = json.loads(_TABLE.read_text())
    found = []
    for block in record["blocks"]:
        for setting in block["settings"]:
            column = dict(zip(record["columns"], np.array(setting["points"]).T, strict=True))
            found.append(
                Curve(
                    block["block"],
                    setting["mother_rate"],
                    setting["punctured"],
                    setting["shortened"],
                    setting["rate"],
                    column["efficiency"],
                    column["qber"],
                    column["frames"],
                    column["errors"],
                    column["undetected"],
                    column["iterations"] / column["frames"],
                )
            )
    return tuple(found)


def clear() -> None:
    """Forget the table that was read: after it was written anew."""
    curves.cache_clear()
    _knots.cache_clear()


def blocks() -> tuple[int, ...]:
    """Block lengths of the table, bits of the mother code."""
    return tuple(sorted({c.block for c in curves()}))


def chosen(block: int) -> tuple[Curve, ...]:
    """For each rate the curve that is used, by rising rate: of two ways to a rate the better at 10 % failures.

    Raises:
        ValueError: if the table has no such block.
    """
    if block not in blocks():
        raise ValueError(f"no code of {block!r} bits was measured; block must be one of {blocks()}")
    best: dict[float, Curve] = {}
    for curve in curves():
        key = round(curve.rate, 3)
        if curve.block == block and (key not in best or curve.efficiency_at(0.1) < best[key].efficiency_at(0.1)):
            best[key] = curve
    return tuple(best[key] for key in sorted(best))


def frame_error_rate(rate: ArrayLike, qber: ArrayLike, block: int) -> Float[Array, "..."]:
    """Measured probability that a frame is not corrected, from the table's resolution (5e-4 to 1.3e-3) to 1 - 1e-4.

    Rises with `qber`. Statistical error of a point, 1 sigma, of itself: for 1e4 bits at most 15 % above 0.05, and 31 %
    at 0.01 (1,000 frames; 95 % interval 0.005 to 0.018); for 6.4e4 bits at most 20 % and 45 % (500; 0.004 to 0.023).

    Args:
        rate: of the code that is sent, any shape. qber: error rate of the channel, broadcast against it.
        block: bits of the mother code, one of `blocks()`; static.
    Raises:
        ValueError: if `block` is not in the table, or a concrete `rate` or `qber` is outside; traced ones are clipped.
    """
    return jax.nn.sigmoid(_interpolate(rate, qber, block, 1))


def mean_iterations(rate: ArrayLike, qber: ArrayLike, block: int) -> Float[Array, "..."]:
    """Measured iterations of the decoder per frame, failed frames with its maximum of 100; arguments as above.

    Flooding schedule; a layered one takes about half.
    """
    return _interpolate(rate, qber, block, 2)


@functools.cache
def _knots(block: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates [rate], and efficiency, log-odds, iterations [rate, 3, knot] at matching places of each waterfall."""
    levels = np.log(LEVELS) - np.log1p(-np.array(LEVELS))
    rates, tables = [], []
    for curve in chosen(block):
        f, z = curve.efficiency, curve.log_odds
        at = np.interp(-levels, -z, f)
        beyond = f[f >= at[-1]]  # of the points past the waterfall the first and the last three
        places = np.concatenate([at, beyond[:1], np.pad(beyond, (2, 0), "edge")[-3:]])
        rows = [places, np.interp(places, f, z), np.interp(places, f, curve.iterations)]
        end = [1.0, np.log(HOPELESS) - np.log1p(-HOPELESS), max(rows[2][0], curve.iterations[0])]
        rates.append(curve.rate)
        tables.append([np.append(e, r) for e, r in zip(end, rows, strict=True)])
    return np.array(rates), np.array(tables)


def _interpolate(rate: ArrayLike, qber: ArrayLike, block: int, row: int) -> Float[Array, "..."]:
    rates, tables = _knots(block)
    _check("rate", rate, float(rates[0]), float(rates[-1]), f"bits per bit for block {block}")
    _check("qber", qber, 0.0, 0.5, "a probability")
    r, q = as_float(rate, qber)
    r, q = jnp.broadcast_arrays(jnp.clip(r, rates[0], rates[-1]), q)
    known, knots = jnp.asarray(rates, r.dtype), jnp.asarray(tables, r.dtype)
    efficiency = (1 - r) / binary_entropy(jnp.clip(q, 1e-7, 0.5))

    def one(rate: Array, f: Array) -> Array:
        above = jnp.clip(jnp.searchsorted(known, rate, side="right"), 1, max(len(rates) - 1, 1))
        above = jnp.minimum(above, len(rates) - 1)
        below = jnp.maximum(above - 1, 0)
        span = known[above] - known[below]
        share = jnp.where(span > 0, (rate - known[below]) / jnp.where(span > 0, span, 1), 0)
        table = (1 - share) * knots[below] + share * knots[above]
        return jnp.interp(f, table[0], table[row])

    scalar: Callable[[Array, Array], Array] = jnp.vectorize(one)
    return scalar(r, efficiency)


def _check(name: str, value: ArrayLike, low: float, high: float, unit: str) -> None:
    if isinstance(value, Tracer):
        return
    values = np.asarray(value)
    slack = 1e-6  # a rate that went through single precision
    if not np.all((values >= low - slack) & (values <= high + slack)):
        raise ValueError(f"{name} must be within [{low:g}, {high:g}] ({unit}), got {values}")


def _falling(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest non-increasing sequence in weighted least squares, and the weight each value now rests on.

    Pool adjacent violators, equal neighbours too.
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pools.append((float(value), float(weight), 1))
        while len(pools) > 1 and pools[-2][0] <= pools[-1][0]:
            (v, w, n), (value_before, weight_before, count) = pools.pop(), pools.pop()
            total = w + weight_before
            pools.append(((v * w + value_before * weight_before) / total, total, n + count))
    return (
        np.concatenate([np.full(n, v) for v, _, n in pools]),
        np.concatenate([np.full(n, w) for _, w, n in pools]),
    )
