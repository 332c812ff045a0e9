"""Device-independent QKD: the key that a Bell violation certifies, whatever is inside the devices.

Acin, Brunner, Gisin, Massar, Pironio, Scarani, Phys. Rev. Lett. 98, 230501 (2007); Pironio et al., New J. Phys. 11,
045021 (2009): collective attacks, one-way error correction at the Shannon limit, endless data. Rates are in bit per
pair and keep their sign; float32 holds them to 5e-6 bit. Published experiments also pay for random key bases and for
finite blocks, and gain by noisy preprocessing; none of it is in here.

Every pair counts: a pair without a click must get an outcome, or the detection loophole is open. Here it gets a fixed
one, and the link then needs a detection efficiency above 0.923 on each side at full visibility.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.bbm92 import TSIRELSON_BOUND
from qkd_gym.physics.information import as_float, binary_entropy


@struct.dataclass
class DeviceIndependentSettings:
    """What the users choose."""

    key_round_prob: Any = struct.field(
        default=1.0,
        low=0.0,
        high=1.0,
        doc="share of pairs measured for key, the rest tests; endless data need few tests",
    )


@struct.dataclass
class DeviceIndependentLink:
    """State and receivers."""

    visibility: Any = struct.field(default=0.95, low=0.0, high=1.0, doc="V of the Werner state that is shared")
    detection_efficiency: Any = struct.field(
        default=1.0, low=0.0, high=1.0, doc="probability of a click on either side, source to detector"
    )


@struct.dataclass
class BellData:
    """What the users estimate."""

    chsh: Any = struct.field(low=0.0, high=TSIRELSON_BOUND, doc="CHSH value S")
    qber: Any = struct.field(low=0.0, high=1.0, doc="error rate Q of the key rounds")


def observe(settings: DeviceIndependentSettings, link: DeviceIndependentLink) -> BellData:
    """S = 2 sqrt(2) V eta^2 + 2 (1-eta)^2 and Q = eta (1 - eta) + eta^2 (1-V)/2.

    A missing click counts as the outcome +1: two of them agree always, one against a click half of the time.
    """
    del settings
    v, eta = as_float(link.visibility, link.detection_efficiency)
    lost = 1 - eta
    return BellData(
        chsh=TSIRELSON_BOUND * v * eta * eta + 2 * lost * lost,
        qber=eta * lost + eta * eta * (1 - v) / 2,
    )


def eve_information(chsh: ArrayLike) -> Float[Array, "..."]:
    """Eve's Holevo information per key bit, h((1 + sqrt((S/2)^2 - 1))/2); 1 for S <= 2, 0 at 2 sqrt(2) and above.

    Values above 2 sqrt(2) are no quantum state's and count as 2 sqrt(2).
    """
    (s,) = as_float(chsh)
    violation = s > 2
    above = jnp.where(violation, (s - 2) * (s + 2) / 4, 0.5)  # (S/2)^2 - 1
    below = jnp.maximum((TSIRELSON_BOUND - s) * (TSIRELSON_BOUND + s) / 4, 0)  # 1 - above
    # h is even about 1/2: the smaller argument is (1 - sqrt(above))/2 without the difference
    smaller = jnp.minimum(below / (2 * (1 + jnp.sqrt(above))), 0.5)
    return jnp.where(violation, binary_entropy(smaller), 1)


def rate_from_data(data: BellData) -> Float[Array, "..."]:
    """r = 1 - h(Q) - h((1 + sqrt((S/2)^2 - 1))/2), bit per key round, unclipped; error rates above 1/2 count as 1/2."""
    s, q = as_float(data.chsh, data.qber)
    return 1 - binary_entropy(jnp.clip(q, 0, 0.5)) - eve_information(s)


def key_rate(settings: DeviceIndependentSettings, link: DeviceIndependentLink) -> Float[Array, "..."]:
    """Key rate in bit per pair, unclipped."""
    share, rate = as_float(settings.key_round_prob, rate_from_data(observe(settings, link)))
    return share * rate
