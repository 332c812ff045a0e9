"""The step of PolarizationAlignment as somebody without JAX would write it, to race the faces against.

One source serves two twins: plain Python floats with `math` (one link), and NumPy arrays (N links at once). The
physics is that of `qkd_gym.envs.calibration.polarization`, formula by formula; only the count samplers are the ones
at hand (`random`, `numpy.random`). A test compares the twins' key with the task's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from qkd_gym.envs.core import Episode

Q = tuple[Any, Any, Any, Any]
LN2 = math.log(2)


class Ops(NamedTuple):
    """Elementwise functions on floats or on arrays."""

    sin: Callable
    cos: Callable
    exp: Callable
    expm1: Callable
    log: Callable
    log1p: Callable
    sqrt: Callable
    floor: Callable
    minimum: Callable
    maximum: Callable
    where: Callable
    normal: Callable[[], Any]
    uniform: Callable[[], Any]
    poisson: Callable[[Any], Any]
    binomial: Callable[[Any, Any], Any]


def python_ops(seed: int) -> Ops:
    """Floats: `math` and `random`."""
    rng = random.Random(seed)

    def poisson(mean: float) -> float:
        if mean > 30:  # normal with the first skewness term
            z = rng.gauss(0.0, 1.0)
            return float(max(math.floor(mean + math.sqrt(mean) * z + (z * z - 1) / 6 + 0.5), 0))
        limit, product, count = math.exp(-mean), rng.random(), 0
        while product > limit:
            product *= rng.random()
            count += 1
        return float(count)

    def binomial(n: float, p: float) -> float:
        z = rng.gauss(0.0, 1.0)
        q = 1 - p
        return float(min(max(math.floor(n * p + math.sqrt(n * p * q) * z + (q - p) * (z * z - 1) / 6 + 0.5), 0), n))

    return Ops(
        math.sin, math.cos, math.exp, math.expm1, math.log, math.log1p, math.sqrt, math.floor, min, max,
        lambda c, a, b: a if c else b, lambda: rng.gauss(0.0, 1.0), rng.random, poisson, binomial,
    )  # fmt: skip


def numpy_ops(seed: int, num_envs: int) -> Ops:
    """Arrays of `num_envs`: NumPy and its generator."""
    rng = np.random.default_rng(seed)
    return Ops(
        np.sin, np.cos, np.exp, np.expm1, np.log, np.log1p, np.sqrt, np.floor, np.minimum, np.maximum, np.where,
        lambda: rng.standard_normal(num_envs), lambda: rng.random(num_envs),
        lambda mean: rng.poisson(mean).astype(float), lambda n, p: rng.binomial(n.astype(np.int64), p).astype(float),
    )  # fmt: skip


class Twin:
    """A running link (or N of them), started from the functional environment's own state.

    Args:
        ops: see `python_ops`, `numpy_ops`.
        episode: state and link(s) to start from: leaves without, or with, a leading axis of N.
    """

    def __init__(self, ops: Ops, episode: Episode) -> None:
        self.o = ops
        vector = np.ndim(episode.time) == 1

        def columns(leaf: Any) -> Any:
            a = np.asarray(leaf, np.float64)
            if not vector:
                return a.tolist()
            return [*np.moveaxis(a, 0, -1)] if a.ndim == 2 else np.moveaxis(a, 0, -1)

        for name, leaf in vars(episode.params).items():
            setattr(self, name, columns(leaf))
        s = jax.device_get(episode.state)
        self.time = int(np.ravel(s.time)[0])
        self.fibre, self.voltage, self.position = columns(s.fibre), columns(s.voltage), columns(s.position)
        self.wind_phase, self.ideal_bits = columns(s.wind_phase_rad), columns(s.ideal_bits)
        zero = np.zeros(len(s.time)) if vector else 0.0
        self.zero, self.pool, self.block_bits, self.block_step = zero, [zero] * 8, zero, 0
        self.max_steps, self.block_steps = (int(np.ravel(x)[0]) for x in (self.max_steps_in_episode, self.block_steps))
        self.stack = (
            (lambda items: np.stack(items, -1).astype(np.float32))
            if vector
            else (lambda items: np.array(items, np.float32))
        )

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """One step; `action` is `(5,)` or `(N, 5)`."""
        o = self.o
        a = [o.minimum(o.maximum(x, -1.0), 1.0) for x in (action.tolist() if np.ndim(action) == 1 else action.T)]
        # the fibre
        half = o.sqrt(self.step_s / 2 / self.decorrelation_time_s)
        kick = o.where(o.uniform() < -o.expm1(-self.step_s * self.jump_rate_per_s), self.jump_rad, 0.0)
        turn = [w * self.step_s / 2 for w in self.turn_rad_per_s]
        first = self._mul(self._exp([half * o.normal() + w + kick * o.normal() for w in turn]), self.fibre)
        second = self._unit(self._mul(self._exp([half * o.normal() + w for w in turn]), first))
        # the controller
        for i in range(4):
            v = self.voltage[i] + self.slew_rad * a[i]
            v = o.minimum(o.maximum(v, -self.range_rad), self.range_rad)
            self.voltage[i] = v
            self.position[i] = o.minimum(o.maximum(self.position[i], v - self.backlash_rad), v + self.backlash_rad)
        train = self._turn(self.squeezer_axes[0], self.squeezer_gains[0] * self.position[0])
        for i in range(1, 4):
            train = self._mul(self._turn(self.squeezer_axes[i], self.squeezer_gains[i] * self.position[i]), train)
        train = self._mul(self.frame, train)
        net = []
        for fibre, ahead in ((first, 0.25), (second, 0.75)):
            swing = self.wind_amplitude_rad * o.sin(
                2 * math.pi * self.wind_frequency_hz * (self.time + ahead) * self.step_s + self.wind_phase
            )
            net.append(self._mul(train, self._mul(self._turn(self.wind_axis, swing), fibre)))
        # the quantum signal
        bought = a[4] > 0
        share = o.where(bought, a[4] / 2, 0.0)
        lost = o.where(bought, share + self.guard_share, 0.0)
        e0 = self.optical_error
        z, x = (e0 + (1 - 2 * e0) * 0.5 * sum(q[i] * q[i] + q[3] * q[3] for q in net) for i in (2, 1))
        means, pulses = self._means(z, x, 1 - lost)
        counts = []
        for clicks, errors in means:
            wrong = o.poisson(errors)
            counts.append((wrong + o.poisson(clicks - errors), wrong))
        (kn1, km1), (kn2, km2), (tn1, tm1), (tn2, tm2) = counts
        # the reference light
        trials = o.floor(self.reference_clicks_per_s * self.step_s * share / 4 + 0.5)
        reference = []
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            true = 0.5 * sum(self._entry(q, i, j) for q in net)
            p = o.minimum(o.maximum(0.5 * (1 + (1 - 2 * e0) * true), 0.0), 1.0)
            plus = o.binomial(trials, p)
            reference.append(o.where(trials > 0, 2 * plus / o.maximum(trials, 1.0) - 1, 0.0))
        # the block
        for i, c in enumerate((kn1, kn2, km1, km2, tn1, tn2, tm1, tm2)):
            self.pool[i] = self.pool[i] + c
        bits = self._key(self.pool)
        secret = bits - self.block_bits
        self.block_step, self.block_bits, self.fibre, self.time = self.block_step + 1, bits, second, self.time + 1
        if self.block_step >= self.block_steps:
            self.pool, self.block_bits, self.block_step = [self.zero] * 8, self.zero, 0
        n_key, m_key, n_test, m_test = kn1 + kn2, km1 + km2, tn1 + tn2, tm1 + tm2
        qber = [o.where(n > 0, m / o.maximum(n, 1.0), 0.5) for n, m in ((n_key, m_key), (n_test, m_test))]
        decade = 1 / (3 * math.log(10.0))
        raw = [
            *(2 * o.sqrt(2 * e) - 1 for e in qber),
            *(o.log1p(n) * decade - 1 for n in (n_key, n_test)),
            *(v / self.range_rad for v in self.voltage),
            *a,
            2 * self.block_step / self.block_steps - 1 + self.zero,
            2 * self.block_bits / (self.ideal_bits * self.block_steps) - 1,
            o.where(bought, 1.0, 0.0) + self.zero,
            *reference,
        ]
        obs = self.stack([o.minimum(o.maximum(v, -1.0), 1.0) for v in raw])
        info = {
            "secret_bits": secret,
            "certifiable_bits": self._certifiable(pulses, x),
            "skr_bps": secret / self.step_s,
            "qber": m_key / o.maximum(n_key, 1.0),
            "qber_x": m_test / o.maximum(n_test, 1.0),
            "reference_share": lost,
        }
        return obs, secret / self.ideal_bits, False, self.time >= self.max_steps, info

    # ---- optics ------------------------------------------------------------------------------------------------------

    def _mul(self, p: Q, q: Q) -> Q:
        a, b, c, d = p
        w, x, y, z = q
        return (
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        )

    def _exp(self, v: list[Any]) -> Q:
        h = self.o.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]) / 2 + 1e-30
        s = self.o.sin(h) / (2 * h)
        return (self.o.cos(h), v[0] * s, v[1] * s, v[2] * s)

    def _turn(self, axis: Any, angle: Any) -> Q:
        s = self.o.sin(angle / 2)
        return (self.o.cos(angle / 2), axis[0] * s, axis[1] * s, axis[2] * s)

    def _unit(self, q: Q) -> Q:
        norm = 1 / self.o.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
        return (q[0] * norm, q[1] * norm, q[2] * norm, q[3] * norm)

    def _entry(self, q: Q, i: int, j: int) -> Any:
        if i == j:
            k, m = (n for n in range(3) if n != i)
            return 1 - 2 * (q[1 + k] * q[1 + k] + q[1 + m] * q[1 + m])
        sign = 1 if (j - i) % 3 == 2 else -1
        return 2 * (q[1 + i] * q[1 + j] + sign * q[0] * q[4 - i - j])

    # ---- counts and key ----------------------------------------------------------------------------------------------

    def _means(self, z: Any, x: Any, live: Any) -> tuple[list[tuple[Any, Any]], Any]:
        o, dark = self.o, self.dark_count_prob_per_gate
        eta = self._transmittance()
        source = ((self.signal_intensity, self.signal_prob), (self.decoy_intensity, 1 - self.signal_prob))
        dark_log = o.log1p(-2 * dark)
        detect = [-o.expm1(dark_log - eta * mu) for mu, _ in source]
        light = [-o.expm1(-eta * mu) for mu, _ in source]
        rate = self.clock_hz * sum(p * d for (_, p), d in zip(source, detect, strict=True))
        pulses = self.clock_hz * self.step_s * live / (1 + rate * self.dead_time_ns * 1e-9)
        q = self.key_basis_prob
        means = []
        for share, error in ((q * q, z), ((1 - q) * (1 - q), x)):
            for (_, p), d, lit in zip(source, detect, light, strict=True):
                n = pulses * share * p
                means.append((n * d, n * (dark + error * lit)))
        return means, pulses

    def _transmittance(self) -> Any:
        loss = self.fibre_loss_db + self.receiver_loss_db
        return self.o.exp(-loss * math.log(10) / 10) * self.detector_efficiency

    def _certifiable(self, pulses: Any, error: Any) -> Any:
        """Vacuum and single-photon clicks of the key basis, at the true error of the test basis."""
        o, eta, dark, q = self.o, self._transmittance(), self.dark_count_prob_per_gate, self.key_basis_prob
        source = ((self.signal_intensity, self.signal_prob), (self.decoy_intensity, 1 - self.signal_prob))
        none, one = (sum(p * mu**n * o.exp(-mu) for mu, p in source) for n in (0, 1))
        single = eta + 2 * dark * (1 - eta)
        phase = o.minimum((dark + error * eta) / single, 0.5)
        return pulses * q * q * (none * 2 * dark + one * single * (1 - self._entropy(phase)))

    def _entropy(self, x: Any) -> Any:
        x = self.o.minimum(self.o.maximum(x, 1e-15), 1 - 1e-15)
        return -(x * self.o.log(x) + (1 - x) * self.o.log1p(-x)) / LN2

    def _key(self, pool: list[Any]) -> Any:
        """Rusca et al., Appl. Phys. Lett. 112, 171104 (2018)."""
        o = self.o
        mu = (self.signal_intensity, self.decoy_intensity)
        p = (self.signal_prob, 1 - self.signal_prob)
        scale = [o.exp(m) / w for m, w in zip(mu, p, strict=True)]
        tau = [p[0] * o.exp(-mu[0]) + p[1] * o.exp(-mu[1]), p[0] * o.exp(-mu[0]) * mu[0] + p[1] * o.exp(-mu[1]) * mu[1]]
        log_term = o.log(19 / self.eps_sec)

        def shift(n: list[Any]) -> tuple[list[Any], list[Any], Any]:
            d = o.sqrt((n[0] + n[1]) * log_term / 2)
            return (
                [s * (x - d) for s, x in zip(scale, n, strict=True)],
                [s * (x + d) for s, x in zip(scale, n, strict=True)],
                d,
            )

        def bounds(n: list[Any], m: list[Any]) -> tuple[Any, Any]:
            low, high, d = shift(n)
            s0 = o.maximum(tau[0] * (mu[0] * low[1] - mu[1] * high[0]) / (mu[0] - mu[1]), 0.0)
            wrong = shift(m)[1]
            upper = o.minimum(2 * (tau[0] * o.minimum(wrong[0], wrong[1]) + d), n[0] + n[1])
            r2 = (mu[1] / mu[0]) ** 2
            s1 = tau[1] * mu[0] / (mu[1] * (mu[0] - mu[1])) * (low[1] - r2 * high[0] - (1 - r2) * upper / tau[0])
            return s0, o.maximum(s1, 0.0)

        s_key_0, s_key_1 = bounds(pool[0:2], pool[2:4])
        _, s_test_1 = bounds(pool[4:6], pool[6:8])
        low, high, _ = shift(pool[6:8])
        v = o.maximum(tau[1] * (high[0] - low[1]) / (mu[0] - mu[1]), 0.0)
        known = (s_key_1 > 0) & (s_test_1 > 0)
        c, d = o.maximum(s_test_1, 1.0), o.maximum(s_key_1, 1.0)
        b = o.minimum(o.maximum(v / c, 1e-12), 0.5)
        inverse, variance = 1 / c + 1 / d, b * (1 - b)
        inner = o.log(inverse) - o.log(variance) + 2 * log_term
        gamma = o.sqrt(o.maximum(variance * inverse * inner, 0.0)) / LN2
        phi = o.minimum(b + gamma, 0.5)
        n, m = pool[0] + pool[1], pool[2] + pool[3]
        leak = self.error_correction_efficiency * n * self._entropy(m / o.maximum(n, 1.0))
        raw = s_key_0 + s_key_1 * (1 - self._entropy(phi)) - leak - (6 * log_term - o.log(self.eps_cor)) / LN2 - 1
        bits = o.where(known, o.floor(o.maximum(raw, 0.0)), 0.0)
        return o.maximum(bits - self.authentication_bits, 0.0)
