"""All protocols behind one face: the same `Hardware`, and a key rate in bit per use, by name.

    hardware = Hardware(channel_loss_db=30.0)
    {name: p.key_rate(p.settings(), hardware) / p.bound(hardware) for name, p in PROTOCOLS.items()}

No physics is in here. What is: which share of the light each module calls its transmittance, which of them count the
detector in, where dark counts are per detector and where per receiver, and what one use is.

- *Arms.* `channel_loss_db` is the whole way between the two users. A node or a source in the middle halves it, in dB.
- *Receivers.* Light passes one receiver on its way to a detector, a user's or the middle node's: an arm has half of the
  channel's loss and all of the receiver's.
- *Detectors.* Every receiver has two of them (four in the middle node of MDI); bases are chosen actively.
- *Sifting.* Endless data spend no share of the uses on the rarer basis: it is 1 in every asymptotic rate. Settings of
  finite blocks state their own.

Functions broadcast, can be jitted, mapped and differentiated. Rates keep their sign; `reported` clips them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics import bbm92, cv_gg02, decoy_bb84, device_independent, dps, finite_key, mdi, mode_pairing
from qkd_gym.physics import twin_field_cal19 as cal19
from qkd_gym.physics import twin_field_sns as sns
from qkd_gym.physics.fibre import transmittance_from_db
from qkd_gym.physics.information import as_float, plob_bound_from_loss
from qkd_gym.physics.numerics import ratio

#: A block longer than any link sends (30 years at 1 GHz): what endless means to analyses that know blocks only.
ENDLESS_PULSES = 1e18

#: Who sends to whom. It decides which bound no rate can pass.
TOPOLOGIES = ("sender to receiver", "node in the middle", "source in the middle")


@struct.dataclass
class Hardware:
    """One link and its devices, whatever protocol runs on them. Defaults: 100 km, SNSPDs; a free design point.

    Single-photon protocols read the detectors, Gaussian ones the homodyne receiver; `Protocol.ignores` lists what is
    not read. Afterpulses, drift of the phase and failed frames are none: set them in the protocol's own link.
    """

    channel_loss_db: Any = struct.field(
        default=20.0, unit="dB", low=0.0, high=400.0, doc="between the two users, receivers not included"
    )
    receiver_loss_db: Any = struct.field(
        default=1.0, unit="dB", low=0.0, high=10.0, doc="optics of one receiver, up to its detectors"
    )
    detector_efficiency: Any = struct.field(default=0.8, low=0.0, high=1.0, doc="of each single-photon detector")
    dark_count_prob_per_gate: Any = struct.field(
        default=1e-8, unit="1/gate", low=0.0, high=0.5, doc="of each single-photon detector"
    )
    misalignment_error: Any = struct.field(
        default=0.02, low=0.0, high=0.5, doc="single photons that leave by the wrong port"
    )
    error_correction_efficiency: Any = struct.field(
        default=1.16, low=1.0, high=10.0, doc="f, disclosed bits per Shannon limit; discrete variables"
    )
    homodyne_efficiency: Any = struct.field(
        default=0.6, low=0.2, high=1.0, doc="of a homodyne receiver's photodiodes; continuous variables"
    )
    excess_noise: Any = struct.field(
        default=0.01, unit="SNU", low=0.0, high=10.0, doc="xi, at the channel's input; continuous variables"
    )
    electronic_noise: Any = struct.field(
        default=0.01, unit="SNU", low=0.0, high=10.0, doc="v_el, per homodyne detector; continuous variables"
    )
    reconciliation_efficiency: Any = struct.field(
        default=0.95, low=0.0, high=1.0, doc="beta, share of the mutual information; continuous variables"
    )


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One protocol on any `Hardware`.

    Attributes:
        name: key in `PROTOCOLS`. title: for tables and plots. use: what rates count per.
        topology: one of `TOPOLOGIES`. ignores: fields of `Hardware` that no figure of it depends on.
        security: what the rates hold against, and the failure probabilities of a finite block.
        source: the rate's papers.
        settings: what the users choose, with defaults; `settings(...)` is checked like any struct.
        link: `Hardware` to the module's own struct of the link.
    """

    name: str
    title: str
    use: str
    topology: str
    ignores: tuple[str, ...]
    security: str
    source: str
    settings: Callable[..., Any]
    link: Callable[[Hardware], Any]
    _observe: Callable[[Any, Any], Any]
    _key_rate: Callable[[Any, Hardware], Array]
    _finite_key_rate: Callable[[Any, Hardware, ArrayLike], Array] | None = None
    _optimal_rate: Callable[[Hardware], tuple[Any, Array]] | None = None

    @property
    def has_finite_key_rate(self) -> bool:
        """Whether the suite has an analysis of finite blocks for it."""
        return self._finite_key_rate is not None

    @property
    def has_optimal_rate(self) -> bool:
        """Whether the suite has a search for the best settings of an endless block."""
        return self._optimal_rate is not None

    def observe(self, settings: Any, hardware: Hardware) -> Any:
        """What the users see on average, in the module's own struct: gains and errors, or moments, or counts per use.

        `bb84-decoy` has a trailing axis over signal, decoy and weakest pulses; the blocks with decoys have their
        module's, of the probabilities behind the counts.
        """
        return self._observe(settings, self.link(hardware))

    def key_rate(self, settings: Any, hardware: Hardware) -> Float[Array, "..."]:
        """Key rate of endless data in bit per use, unclipped.

        For `bb84-two-decoy` and `bb84-one-decoy`, whose sources know blocks only, a block of `ENDLESS_PULSES`.
        """
        return self._key_rate(settings, hardware)

    def finite_key_rate(self, settings: Any, hardware: Hardware, pulses: ArrayLike) -> Float[Array, "..."]:
        """Key of the mean counts of a block of `pulses` uses, in bit per use, unclipped.

        Raises:
            ValueError: if the suite has no such analysis for this protocol; the message lists those that have.
        """
        if self._finite_key_rate is None:
            having = ", ".join(p.name for p in PROTOCOLS.values() if p.has_finite_key_rate)
            raise ValueError(f"{self.name} has no analysis of finite blocks here; these have: {having}")
        return self._finite_key_rate(settings, hardware, pulses)

    def optimal_rate(self, hardware: Hardware) -> tuple[Any, Float[Array, "..."]]:
        """`(settings, key rate)` that maximise the rate of endless data; the rate is unclipped.

        Raises:
            ValueError: if the suite has no such search; the message lists the protocols that have one.
        """
        if self._optimal_rate is None:
            having = ", ".join(p.name for p in PROTOCOLS.values() if p.has_optimal_rate)
            raise ValueError(f"{self.name} has no search for its best settings here; these have: {having}")
        return self._optimal_rate(hardware)

    def bound(self, hardware: Hardware) -> Float[Array, "..."]:
        """What no protocol of this topology can pass, in bit per use; inf without loss.

        PLOB of the channel, receivers not included, or of half of it (in dB) with a node or a source in the middle.
        Per mode: a pulse that codes in polarisation or in two time bins holds two, and could in principle carry twice
        this. Pirandola et al., Nat. Commun. 8, 15043 (2017); Pirandola, Commun. Phys. 2, 51 (2019).
        """
        (loss,) = as_float(hardware.channel_loss_db)
        return plob_bound_from_loss(loss if self.topology == TOPOLOGIES[0] else loss / 2)


def protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        ValueError: for an unknown name, with the list of known ones.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol is called {name!r}; there are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def repeaterless_bound(hardware: Hardware) -> Float[Array, "..."]:
    """PLOB bound of the channel in bit per use and mode: what point-to-point protocols cannot pass, and others may."""
    return plob_bound_from_loss(hardware.channel_loss_db)


def reported(rate: ArrayLike) -> Float[Array, "..."]:
    """The rate as reported: never below zero."""
    (r,) = as_float(rate)
    return jnp.maximum(r, 0)


# ---- what each module calls its transmittance ---------------------------------------------------------------------


def detected_transmittance(hardware: Hardware) -> Float[Array, "..."]:
    """From one user to the other's clicks: channel, receiver, detector."""
    channel, receiver, efficiency = as_float(
        hardware.channel_loss_db, hardware.receiver_loss_db, hardware.detector_efficiency
    )
    return transmittance_from_db(channel + receiver) * efficiency


def detected_arm_transmittance(hardware: Hardware) -> Float[Array, "..."]:
    """From a user to the middle node's clicks, or from a middle source to a user's: half the channel, one receiver."""
    channel, receiver, efficiency = as_float(
        hardware.channel_loss_db, hardware.receiver_loss_db, hardware.detector_efficiency
    )
    return transmittance_from_db(channel / 2 + receiver) * efficiency


def background_yield(hardware: Hardware) -> Float[Array, "..."]:
    """Y0 of a receiver of two detectors, 2 pd."""
    (dark,) = as_float(hardware.dark_count_prob_per_gate)
    return 2 * dark


def _decoy_link(hardware: Hardware) -> decoy_bb84.DecoyLink:
    return decoy_bb84.DecoyLink(
        transmittance=detected_transmittance(hardware),
        background_yield=background_yield(hardware),
        misalignment_error=hardware.misalignment_error,
        error_correction_efficiency=hardware.error_correction_efficiency,
        sifting=1.0,
    )


def _block_link(hardware: Hardware) -> finite_key.BlockLink:
    return finite_key.BlockLink(
        transmittance=detected_transmittance(hardware),
        dark_count_prob_per_gate=hardware.dark_count_prob_per_gate,
        afterpulse_prob=0.0,
        misalignment_error=hardware.misalignment_error,
    )


def _mdi_link(hardware: Hardware) -> mdi.MdiLink:
    arm = detected_arm_transmittance(hardware)
    return mdi.MdiLink(
        transmittance_a=arm,
        transmittance_b=arm,
        dark_count_prob_per_gate=hardware.dark_count_prob_per_gate,
        misalignment_error=hardware.misalignment_error,
        error_correction_efficiency=hardware.error_correction_efficiency,
        sifting=1.0,
    )


def _cal19_link(hardware: Hardware) -> cal19.Cal19Link:
    """All misalignment is one of phase: sin^2(phi / 2) of a single photon leaves by the wrong port."""
    (mis,) = as_float(hardware.misalignment_error)
    some = mis > 0  # the slope of the root has no end at 0
    return cal19.Cal19Link(
        arm_transmittance=detected_arm_transmittance(hardware),
        dark_count_prob_per_gate=hardware.dark_count_prob_per_gate,
        phase_mismatch_rad=jnp.where(some, 2 * jnp.arcsin(jnp.sqrt(jnp.where(some, mis, 0.25))), 0),
        polarization_mismatch_rad=0.0,
        error_correction_efficiency=hardware.error_correction_efficiency,
    )


def _sns_link(hardware: Hardware) -> sns.SnsLink:
    return sns.SnsLink(
        arm_transmittance=detected_arm_transmittance(hardware),
        dark_count_prob_per_gate=hardware.dark_count_prob_per_gate,
        misalignment_error=hardware.misalignment_error,
        error_correction_efficiency=hardware.error_correction_efficiency,
    )


def _mode_pairing_link(hardware: Hardware) -> mode_pairing.ModePairingLink:
    return mode_pairing.ModePairingLink(
        arm_transmittance=detected_arm_transmittance(hardware),
        dark_count_prob_per_gate=hardware.dark_count_prob_per_gate,
        misalignment_error=hardware.misalignment_error,
        phase_variance_rad2_per_round=0.0,
        error_correction_efficiency=hardware.error_correction_efficiency,
    )


def _cv_link(hardware: Hardware, detection: str) -> cv_gg02.CvLink:
    """The channel alone is Eve's; the receiver is trusted, its optics part of its efficiency."""
    receiver, efficiency = as_float(hardware.receiver_loss_db, hardware.homodyne_efficiency)
    return cv_gg02.CvLink(
        transmittance=transmittance_from_db(hardware.channel_loss_db),
        excess_noise=hardware.excess_noise,
        detector_efficiency=transmittance_from_db(receiver) * efficiency,
        electronic_noise=hardware.electronic_noise,
        reconciliation_efficiency=hardware.reconciliation_efficiency,
        detection=detection,
    )


def _pair_link(hardware: Hardware) -> bbm92.PairLink:
    arm, background = detected_arm_transmittance(hardware), background_yield(hardware)
    return bbm92.PairLink(
        transmittance_alice=arm,
        transmittance_bob=arm,
        background_yield_alice=background,
        background_yield_bob=background,
        misalignment_error=hardware.misalignment_error,
        error_correction_efficiency=hardware.error_correction_efficiency,
        sifting=1.0,
    )


def _device_independent_link(hardware: Hardware) -> device_independent.DeviceIndependentLink:
    """A Werner state whose pairs err by the misalignment in every basis, V = 1 - 2 e_d."""
    (mis,) = as_float(hardware.misalignment_error)
    return device_independent.DeviceIndependentLink(
        visibility=1 - 2 * mis, detection_efficiency=detected_arm_transmittance(hardware)
    )


def _dps_link(hardware: Hardware) -> dps.DpsLink:
    return dps.DpsLink(
        transmittance=detected_transmittance(hardware),
        dark_count_prob_per_gate=hardware.dark_count_prob_per_gate,
        baseline_error=hardware.misalignment_error,
        error_correction_efficiency=hardware.error_correction_efficiency,
    )


# ---- what the modules lack of the common shape --------------------------------------------------------------------


def _observe_decoys(settings: decoy_bb84.DecoySettings, link: decoy_bb84.DecoyLink) -> decoy_bb84.Gains:
    signal, decoy, weakest, eta, y0, mis = jnp.broadcast_arrays(
        *as_float(
            settings.signal_intensity, settings.decoy_intensity, settings.weakest_intensity,
            link.transmittance, link.background_yield, link.misalignment_error,
        )
    )  # fmt: skip
    each = decoy_bb84.DecoyLink(*(x[..., None] for x in (eta, y0, mis)))
    return decoy_bb84.observe(jnp.stack([signal, decoy, weakest], axis=-1), each)


def _decoy_rate(settings: decoy_bb84.DecoySettings, hardware: Hardware) -> Array:
    """The rate, and 0 inside a program whose settings have strayed out of order, where no bound holds."""
    mu, nu, nu2 = as_float(settings.signal_intensity, settings.decoy_intensity, settings.weakest_intensity)
    ordered = (nu > nu2) & (mu > nu + nu2)
    inside = _unchecked(
        decoy_bb84.DecoySettings(), jnp.where(ordered, mu, 0.5), jnp.where(ordered, nu, 0.1), jnp.where(ordered, nu2, 0)
    )
    return jnp.where(ordered, decoy_bb84.key_rate(inside, _decoy_link(hardware)), 0)


def _observe_block(settings: finite_key.BlockSettings, link: finite_key.BlockLink) -> finite_key.ClickProbs:
    return finite_key.lim_channel(
        settings.intensities,
        link.transmittance,
        link.dark_count_prob_per_gate,
        link.afterpulse_prob,
        link.misalignment_error,
    )


def _block_rate(
    analysis: Callable[..., finite_key.BlockKey],
    settings: finite_key.BlockSettings,
    hardware: Hardware,
    pulses: ArrayLike,
) -> Array:
    counts = finite_key.counts_of(settings, _block_link(hardware), pulses)
    distillation = finite_key.Distillation(error_correction_efficiency=hardware.error_correction_efficiency)
    key = analysis(counts, settings.intensities, settings.probabilities, distillation)
    (total,) = as_float(pulses)
    # where no bound holds on the single photons there is no key, though vacuum alone may outweigh the leak
    return ratio(jnp.where(key.secret_bits > 0, key.raw_bits, jnp.minimum(key.raw_bits, 0)), total)


def _endless_block_rate(
    analysis: Callable[..., finite_key.BlockKey], settings: finite_key.BlockSettings, hardware: Hardware
) -> Array:
    return _block_rate(analysis, settings, hardware, ENDLESS_PULSES)


def _unchecked(template: Any, *values: ArrayLike) -> Any:
    """A struct like `template` of values that a search or a program makes, beyond the reach of the door's checks."""
    return jax.tree.unflatten(jax.tree.structure(template), list(values))


def _best(
    search: Callable[..., tuple[Any, ...]], link: Callable[[Hardware], Any], settings: Callable[..., Any], *rest: float
) -> Callable[[Hardware], tuple[Any, Array]]:
    """A module's search, its arguments put into its settings; `rest` fills the fields that are not searched."""

    def best(hardware: Hardware) -> tuple[Any, Array]:
        *found, rate = search(link(hardware))
        return _unchecked(settings(), *found, *(jnp.full_like(rate, x) for x in rest)), rate

    return best


_GAUSSIAN = ("homodyne_efficiency", "excess_noise", "electronic_noise", "reconciliation_efficiency")
_DISCRETE = (
    "detector_efficiency", "dark_count_prob_per_gate", "misalignment_error", "error_correction_efficiency",
)  # fmt: skip
_COMPOSABLE = "general attacks; a block is eps_sec = 1e-10 secret and eps_cor = 1e-15 correct"
_CHERNOFF = "general attacks; each Chernoff bound of a block fails with 1e-10, eps_cor = 1e-15"
_ENDLESS = "general attacks, endless data, yields known as if by endless decoys"
_GG02_SECURITY = "collective attacks, trusted receiver; in a block each of three errors has 1e-10"


def _gg02(detection: str) -> Protocol:
    link = functools.partial(_cv_link, detection=detection)
    return Protocol(
        name=f"gg02-{detection}",
        title=f"CV-QKD GG02, {detection}",
        use="symbol",
        topology=TOPOLOGIES[0],
        ignores=_DISCRETE,
        security=_GG02_SECURITY,
        source="Fossier et al., J. Phys. B 42, 114014 (2009); Leverrier et al., Phys. Rev. A 81, 062343 (2010)",
        settings=cv_gg02.CvSettings,
        link=link,
        _observe=cv_gg02.observe,
        _key_rate=lambda settings, hardware: cv_gg02.key_rate(settings, link(hardware)),
        _finite_key_rate=lambda settings, hardware, n: cv_gg02.finite_key_rate(settings, link(hardware), n),
        _optimal_rate=_best(cv_gg02.optimal_rate, link, cv_gg02.CvSettings, 0.5),
    )


def _blocks(name: str, title: str, source: str, settings: Callable[..., Any], analysis: Callable[..., Any]) -> Protocol:
    return Protocol(
        name=name,
        title=title,
        use="pulse",
        topology=TOPOLOGIES[0],
        ignores=_GAUSSIAN,
        security=_COMPOSABLE,
        source=source,
        settings=settings,
        link=_block_link,
        _observe=_observe_block,
        _key_rate=functools.partial(_endless_block_rate, analysis),
        _finite_key_rate=functools.partial(_block_rate, analysis),
    )


def _sending_or_not(name: str, title: str, method: str, source: str, sending_prob: float) -> Protocol:
    return Protocol(
        name=name,
        title=title,
        use="window",
        topology=TOPOLOGIES[1],
        ignores=_GAUSSIAN,
        security=_ENDLESS,
        source=source,
        settings=functools.partial(sns.SnsSettings, sending_prob=sending_prob),
        link=_sns_link,
        _observe=sns.observe,
        _key_rate=lambda settings, hardware: sns.key_rate(settings, _sns_link(hardware), method),
        _optimal_rate=_best(functools.partial(sns.optimal_rate, method=method), _sns_link, sns.SnsSettings),
    )


_ALL = (
    Protocol(
        name="bb84-decoy",
        title="decoy BB84, vacuum and weak decoy",
        use="pulse",
        topology=TOPOLOGIES[0],
        ignores=_GAUSSIAN,
        security="general attacks, endless data",
        source="Ma, Qi, Zhao, Lo, Phys. Rev. A 72, 012326 (2005)",
        settings=decoy_bb84.DecoySettings,
        link=_decoy_link,
        _observe=_observe_decoys,
        _key_rate=_decoy_rate,
        _optimal_rate=_best(decoy_bb84.optimal_rate, _decoy_link, decoy_bb84.DecoySettings, 0.05, 0.0),
    ),
    _blocks(
        "bb84-two-decoy",
        "decoy BB84, two decoys, finite block",
        "Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014)",
        finite_key.BlockSettings,
        finite_key.two_decoy_key,
    ),
    _blocks(
        "bb84-one-decoy",
        "decoy BB84, one decoy, finite block",
        "Rusca, Boaron, Gruenenfelder, Martin, Zbinden, Appl. Phys. Lett. 112, 171104 (2018)",
        functools.partial(
            finite_key.BlockSettings, intensities=np.array([0.5, 0.15]), probabilities=np.array([0.7, 0.3])
        ),
        finite_key.one_decoy_key,
    ),
    Protocol(
        name="mdi",
        title="MDI, endless decoys",
        use="pulse pair",
        topology=TOPOLOGIES[1],
        ignores=_GAUSSIAN,
        security=_ENDLESS,
        source="Lo, Curty, Qi, Phys. Rev. Lett. 108, 130503 (2012); Ma, Razavi, Phys. Rev. A 86, 062319 (2012)",
        settings=mdi.MdiSettings,
        link=_mdi_link,
        _observe=mdi.observe,
        _key_rate=lambda settings, hardware: mdi.key_rate(settings, _mdi_link(hardware)),
        _optimal_rate=_best(mdi.optimal_rate, _mdi_link, mdi.MdiSettings),
    ),
    Protocol(
        name="mdi-four-intensity",
        title="MDI, four intensities",
        use="pulse pair",
        topology=TOPOLOGIES[1],
        ignores=_GAUSSIAN,
        security=_CHERNOFF,
        source="Zhou, Yu, Wang, Phys. Rev. A 93, 042324 (2016)",
        settings=mdi.FourIntensitySettings,
        link=_mdi_link,
        _observe=lambda settings, link: mdi.expected_counts(settings, link, 1.0),
        _key_rate=lambda settings, hardware: mdi.decoy_key_rate(settings, _mdi_link(hardware)),
        _finite_key_rate=lambda settings, hardware, n: mdi.finite_key_rate(settings, _mdi_link(hardware), n),
    ),
    Protocol(
        name="tf-cal19",
        title="twin field, CAL19",
        use="pulse pair",
        topology=TOPOLOGIES[1],
        ignores=_GAUSSIAN,
        security=_ENDLESS,
        source="Curty, Azuma, Lo, npj Quantum Inf. 5, 64 (2019)",
        settings=cal19.Cal19Settings,
        link=_cal19_link,
        _observe=cal19.observe,
        _key_rate=lambda settings, hardware: cal19.key_rate(settings, _cal19_link(hardware)),
        _optimal_rate=_best(cal19.optimal_rate, _cal19_link, cal19.Cal19Settings),
    ),
    _sending_or_not(
        "tf-sns", "twin field, SNS", "plain", "Wang, Yu, Hu, Phys. Rev. A 98, 062323 (2018)", sending_prob=0.03
    ),
    _sending_or_not(
        "tf-sns-aopp",
        "twin field, SNS with odd-parity pairing",
        "aopp",
        "Xu, Yu, Jiang, Hu, Wang, Phys. Rev. A 101, 042330 (2020)",
        sending_prob=0.26,
    ),
    Protocol(
        name="tf-sns-decoy",
        title="twin field, SNS, two decoys",
        use="window",
        topology=TOPOLOGIES[1],
        ignores=_GAUSSIAN,
        security=_CHERNOFF,
        source="Jiang, Yu, Hu, Wang, Phys. Rev. Applied 12, 024061 (2019)",
        settings=sns.SnsBlockSettings,
        link=_sns_link,
        _observe=lambda settings, link: sns.expected_counts(settings, link, 1.0),
        _key_rate=lambda settings, hardware: sns.decoy_key_rate(settings, _sns_link(hardware)),
        _finite_key_rate=lambda settings, hardware, n: sns.finite_key_rate(settings, _sns_link(hardware), n),
    ),
    Protocol(
        name="mode-pairing",
        title="mode pairing",
        use="round",
        topology=TOPOLOGIES[1],
        ignores=_GAUSSIAN,
        security=_ENDLESS,
        source="Zeng, Zhou, Wu, Ma, Nat. Commun. 13, 3903 (2022)",
        settings=mode_pairing.ModePairingSettings,
        link=_mode_pairing_link,
        _observe=mode_pairing.observe,
        _key_rate=lambda settings, hardware: mode_pairing.key_rate(settings, _mode_pairing_link(hardware)),
        _optimal_rate=_best(
            functools.partial(mode_pairing.optimal_rate, max_pairing_rounds=1000.0),
            _mode_pairing_link,
            mode_pairing.ModePairingSettings,
            1000.0,
        ),
    ),
    _gg02("homodyne"),
    _gg02("heterodyne"),
    Protocol(
        name="bbm92",
        title="BBM92, pulsed pair source",
        use="pulse",
        topology=TOPOLOGIES[2],
        ignores=_GAUSSIAN,
        security="general attacks, endless data",
        source="Ma, Fung, Lo, Phys. Rev. A 76, 012307 (2007)",
        settings=bbm92.PairSettings,
        link=_pair_link,
        _observe=bbm92.observe,
        _key_rate=lambda settings, hardware: bbm92.key_rate(settings, _pair_link(hardware)),
        _optimal_rate=_best(bbm92.optimal_rate, _pair_link, bbm92.PairSettings),
    ),
    Protocol(
        name="diqkd",
        title="device-independent, ideal pair source",
        use="pair",
        topology=TOPOLOGIES[2],
        # error correction at the Shannon limit, and no dark counts, as in the source
        ignores=(*_GAUSSIAN, "dark_count_prob_per_gate", "error_correction_efficiency"),
        security="collective attacks, whatever is inside the devices; endless data",
        source="Acin et al., Phys. Rev. Lett. 98, 230501 (2007); Pironio et al., New J. Phys. 11, 045021 (2009)",
        settings=device_independent.DeviceIndependentSettings,
        link=_device_independent_link,
        _observe=device_independent.observe,
        _key_rate=lambda settings, hardware: device_independent.key_rate(settings, _device_independent_link(hardware)),
    ),
    Protocol(
        name="dps",
        title="differential phase shift",
        use="slot",
        topology=TOPOLOGIES[0],
        ignores=_GAUSSIAN,
        security="individual attacks only: no promise of key",
        source="Waks, Takesue, Yamamoto, Phys. Rev. A 73, 012344 (2006)",
        settings=dps.DpsSettings,
        link=_dps_link,
        _observe=dps.observe,
        _key_rate=lambda settings, hardware: dps.key_rate(settings, _dps_link(hardware)),
        _optimal_rate=_best(dps.optimal_rate, _dps_link, dps.DpsSettings),
    ),
)

#: Every protocol by name.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({p.name: p for p in _ALL})
