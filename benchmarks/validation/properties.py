"""Limits and properties that hold whatever the parameters: closed forms at the ends, orders, slopes, brackets."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qkd_gym.physics import cv_gg02, decoy_bb84, device_independent, information, mode_pairing
from qkd_gym.physics.protocols import PROTOCOLS, TOPOLOGIES, Hardware, repeaterless_bound


@dataclasses.dataclass(frozen=True)
class Property:
    """What must hold, what was found, and whether that is it."""

    what: str
    found: str
    wanted: str
    holds: bool


def near(what: str, found: float, wanted: float, tolerance: float, relative: bool = True) -> Property:
    """A figure that must come out to a tolerance."""
    error = abs(found - wanted) / (abs(wanted) if relative else 1)
    return Property(what, f"{found:.8g}", f"{wanted:.8g} ± {tolerance:.0e}", bool(error <= tolerance))


def properties() -> list[Property]:
    """All of them; call under x64."""
    return [*_limits(), *_decoy_brackets(), *_orders(), *_slopes(), *_blocks()]


def _limits() -> list[Property]:
    eta = 1e-6
    found = [
        near("PLOB / η as η → 0", float(information.plob_bound(eta)) / eta, 1 / math.log(2), 1e-6),
        near("TGW / η as η → 0", float(information.tgw_bound(eta)) / eta, 2 / math.log(2), 1e-6),
        near("1 − 2h(e) = 0 at e = 0.1100279", float(information.shor_preskill_fraction(0.1100279)), 0.0, 1e-6, False),
    ]
    link = decoy_bb84.DecoyLink(1e-8, 0.0, 0.033, 0.5, 1.22, 0.5)
    mu = float(decoy_bb84.optimal_rate(link, "infinite")[0])
    h = float(information.binary_entropy(0.033))
    found.append(
        near("BB84, best μ: (1 − μ) e^−μ = f h(e_d) / (1 − h(e_d))", (1 - mu) * math.exp(-mu), 1.22 * h / (1 - h), 1e-6)
    )
    t = 0.1
    for detection, wanted in (
        ("homodyne", 0.5 * math.log2(1 / (1 - t))),
        ("heterodyne", math.log2(t / (math.e * (1 - t))) + _bosonic_entropy((1 - t) / t)),
    ):
        ideal = cv_gg02.CvLink(t, 0.0, 1.0, 0.0, 1.0, 0.0, detection)
        rate = float(cv_gg02.key_rate(cv_gg02.CvSettings(modulation_variance=1e6), ideal))
        found.append(near(f"GG02 {detection}, pure loss, V_A = 1e6, β = 1", rate, wanted, 1e-4))
    s = device_independent.observe(
        device_independent.DeviceIndependentSettings(), device_independent.DeviceIndependentLink(1 / math.sqrt(2), 1.0)
    )
    found.append(near("Werner state, V = 1/√2: CHSH value", float(s.chsh), 2.0, 1e-12))
    return found


def _bosonic_entropy(x: float) -> float:
    return (x + 1) * math.log2(x + 1) - x * math.log2(x)


def _decoy_brackets() -> list[Property]:
    """Bounds against the truth that made the gains, over random links."""
    rng = np.random.default_rng(0)
    n = 4000
    eta, y0, mis = 10 ** rng.uniform(-6, -0.3, n), 10 ** rng.uniform(-9, -5, n), rng.uniform(0, 0.1, n)
    link = decoy_bb84.DecoyLink(eta, y0, mis)
    mu, nu = rng.uniform(0.3, 0.9, n), rng.uniform(0.01, 0.2, n)
    settings = decoy_bb84.DecoySettings(mu, nu, 0.05 * nu)
    signal, decoy, weak = (decoy_bb84.observe(x, link) for x in (mu, nu, 0.05 * nu))
    y1, e1 = decoy_bb84.photon_yield(1, link), decoy_bb84.photon_error(1, link)
    found = []
    one = decoy_bb84.vacuum_weak_bounds(settings, signal, decoy, y0)
    two = decoy_bb84.two_weak_bounds(settings, signal, decoy, weak)[1:]
    for name, (low, high) in (("vacuum and weak", one), ("two weak", two)):
        share, excess = float(jnp.max(low / y1)), float(jnp.min(high / e1))
        found.append(
            Property(f"{name} decoys, {n} links: largest Y₁ᴸ / Y₁", f"{share:.6f}", "at most 1", share <= 1 + 1e-9)
        )
        found.append(
            Property(f"{name} decoys, {n} links: smallest e₁ᵁ / e₁", f"{excess:.6f}", "at least 1", excess >= 1 - 1e-9)
        )
    return found


@functools.cache
def _rates(name: str) -> Any:
    return jax.jit(PROTOCOLS[name].key_rate)


def _orders() -> list[Property]:
    """Rates fall with every imperfection and stay under their bound."""
    n = 200
    loss = np.linspace(0.0, 60.0, n)
    steps = np.linspace(0.0, 1.0, n)
    sweeps = {
        "loss": {"channel_loss_db": loss},
        "receiver loss": {"receiver_loss_db": 10 * steps},
        "dark counts": {"dark_count_prob_per_gate": 1e-4 * steps},
        "misalignment": {"misalignment_error": 0.2 * steps},
        "f": {"error_correction_efficiency": 1 + steps},
        "excess noise": {"excess_noise": 0.2 * steps},
        "1 − β": {"reconciliation_efficiency": 1 - 0.5 * steps},
    }
    found = []
    for name, change in sweeps.items():
        links = dataclasses.replace(Hardware(channel_loss_db=10.0), **change)
        links = jax.tree.map(lambda x: np.broadcast_to(x, n), links)
        rising = []
        for protocol in PROTOCOLS.values():
            reported = np.maximum(np.asarray(_rates(protocol.name)(protocol.settings(), links)), 0)
            if np.any(np.diff(reported) > 1e-12 * reported.max()):
                rising.append(protocol.name)
        found.append(
            Property(f"rate never rises with {name}", ", ".join(rising) or "no protocol rises", "none", not rising)
        )
    for topology in TOPOLOGIES:
        links = jax.tree.map(
            lambda x: np.broadcast_to(x, n),
            Hardware(loss + 1e-3, 0.0, 1.0, 1e-10, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0),
        )
        shares = {}
        for protocol in PROTOCOLS.values():
            if protocol.topology == topology and protocol.has_optimal_rate:
                rate = jax.jit(protocol.optimal_rate)(links)[1]
                shares[protocol.name] = float(jnp.max(rate / protocol.bound(links)))
        best = max(shares, key=shares.get)
        found.append(
            Property(
                f"ideal devices, best settings, 0–60 dB, {topology}: largest share of the bound",
                f"{shares[best]:.3f} ({best})",
                "below 1",
                shares[best] < 1,
            )
        )
    return found


def _slopes() -> list[Property]:
    """How the rate falls with the whole transmittance: powers between 40 and 60 dB without dark counts."""
    links = jax.tree.map(
        lambda x: np.broadcast_to(x, 2), Hardware(channel_loss_db=np.array([50.0, 60.0]), dark_count_prob_per_gate=0.0)
    )
    found = []
    for name, power in (
        ("bb84-decoy", 1.0), ("mdi", 1.0), ("bbm92", 1.0), ("dps", 1.0), ("tf-cal19", 0.5), ("tf-sns", 0.5),
        ("tf-sns-aopp", 0.5),
    ):  # fmt: skip
        rate = np.asarray(_rates(name)(PROTOCOLS[name].settings(), links))
        found.append(near(f"{name}: power of η in the rate", float(np.log10(rate[0] / rate[1])), power, 0.01))
    for rounds, power in ((1.0, 1.0), (1e9, 0.5)):
        link = mode_pairing.ModePairingLink(10 ** -np.array([2.5, 3.0]), 0.0, 0.04, 0.0, 1.1)
        rate = np.asarray(mode_pairing.key_rate(mode_pairing.ModePairingSettings(0.5, rounds), link))
        found.append(
            near(f"mode pairing within {rounds:g} rounds: power of η", float(np.log10(rate[0] / rate[1])), power, 0.02)
        )
    return found


def _blocks() -> list[Property]:
    """Finite blocks tend to endless ones from below."""
    hardware = Hardware(channel_loss_db=10.0)
    found = []
    for protocol in PROTOCOLS.values():
        if not protocol.has_finite_key_rate:
            continue
        settings = protocol.settings()
        blocks = 10.0 ** np.arange(8, 18)
        rate = np.asarray(jax.jit(protocol.finite_key_rate)(settings, hardware, blocks))
        endless = float(_rates(protocol.name)(settings, hardware))
        gaussian = protocol.name.startswith("gg02")
        if gaussian:
            endless *= float(settings.key_fraction)
        growing = bool(np.all(np.diff(np.maximum(rate, 0)) >= 0))
        share = rate[-1] / endless
        found.append(
            Property(
                f"{protocol.name}: rate of 1e17 uses / endless (the key's share of it), growing with the block"
                if gaussian
                else f"{protocol.name}: rate of 1e17 uses / endless, growing with the block",
                f"{share:.6f}, {'growing' if growing else 'NOT growing'}",
                "0.999 to 1, growing",
                growing and bool(0.999 <= share <= 1),
            )
        )
    return found


def beyond_plob() -> dict[str, float]:
    """Loss in dB at which the best settings of a protocol pass the repeaterless bound, on the default devices."""
    loss = np.arange(20.0, 100.0, 0.5)
    links = jax.tree.map(lambda x: np.broadcast_to(x, loss.size), Hardware(channel_loss_db=loss))
    crossings = {}
    for protocol in PROTOCOLS.values():
        if protocol.has_optimal_rate:
            above = np.asarray(jax.jit(protocol.optimal_rate)(links)[1] > repeaterless_bound(links))
            if above.any():
                crossings[protocol.name] = float(loss[np.argmax(above)])
    return crossings
