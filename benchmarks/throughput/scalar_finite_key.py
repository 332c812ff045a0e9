"""The two-decoy finite key in plain Python floats, one block at a time: what a script without arrays would run.

Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014). Written apart from `qkd_gym.physics`, so that the
contest also compares values.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import entr

EPS_SEC, EPS_COR, EFFICIENCY = 1e-10, 1e-15, 1.16
DARK, AFTERPULSE, MISALIGNMENT = 6e-7, 0.04, 0.005


def binary_entropy(x: float) -> float:
    return float(entr(x) + entr(1 - x)) / math.log(2)


def key_bits(
    eta: float, pulses: float, mu: tuple[float, float, float], p: tuple[float, float, float], q: float
) -> float:
    """Secret bits (not floored, clipped at 0) of one block of `pulses` over transmittance `eta`."""
    detect = [1 - (1 - 2 * DARK) * math.exp(-eta * k) for k in mu]
    error = [
        DARK + MISALIGNMENT * (1 - math.exp(-eta * k)) + AFTERPULSE * d / 2 for k, d in zip(mu, detect, strict=True)
    ]
    n_key = np.array([pulses * q * q * pk * d * (1 + AFTERPULSE) for pk, d in zip(p, detect, strict=True)])
    m_key = np.array([pulses * q * q * pk * e for pk, e in zip(p, error, strict=True)])
    other = ((1 - q) / q) ** 2
    n_test, m_test = n_key * other, m_key * other
    tau = [sum(pk * math.exp(-k) * k**n / math.factorial(n) for pk, k in zip(p, mu, strict=True)) for n in (0, 1)]
    weight = [math.exp(k) / pk for pk, k in zip(p, mu, strict=True)]
    m1, m2, m3 = mu

    def shift(n: np.ndarray, sign: int) -> list[float]:
        delta = math.sqrt(n.sum() / 2 * math.log(21 / EPS_SEC))
        return [w * (x + sign * delta) for w, x in zip(weight, n, strict=True)]

    def vacuum_and_single(n: np.ndarray) -> tuple[float, float]:
        low, high = shift(n, -1), shift(n, +1)
        s0 = max(tau[0] * (m2 * low[2] - m3 * high[1]) / (m2 - m3), 0.0)
        bracket = low[1] - high[2] - (m2**2 - m3**2) / m1**2 * (high[0] - s0 / tau[0])
        return s0, max(tau[1] * m1 * bracket / (m1 * (m2 - m3) - m2**2 + m3**2), 0.0)

    s_key_0, s_key_1 = vacuum_and_single(n_key)
    _, s_test_1 = vacuum_and_single(n_test)
    if s_key_1 <= 0 or s_test_1 <= 0:
        return 0.0
    v = max(tau[1] * (shift(m_test, +1)[1] - shift(m_test, -1)[2]) / (m2 - m3), 0.0)
    b = min(v / s_test_1, 0.5)
    gamma = 0.0
    if b > 0:
        c, d = s_test_1, s_key_1
        gamma = math.sqrt(
            (c + d)
            * (1 - b)
            * b
            / (c * d * math.log(2))
            * math.log2((c + d) / (c * d * (1 - b) * b) * (21 / EPS_SEC) ** 2)
        )
    phi = min(b + gamma, 0.5)
    n = n_key.sum()
    leak = EFFICIENCY * n * binary_entropy(m_key.sum() / n)
    raw = s_key_0 + s_key_1 * (1 - binary_entropy(phi)) - leak - 6 * math.log2(21 / EPS_SEC) - math.log2(2 / EPS_COR)
    return max(raw, 0.0)
