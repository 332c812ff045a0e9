"""Near-optimal settings of a two-decoy block, as a one-dimensional table.

The optimum of (mu1, mu2, p1, p2, q) hardly depends on the loss and the number of pulses separately: at a fixed product
of pulses and transmittance, i.e. at a fixed number of detections, it stays put until dark counts take over. So one
column of 24 optima serves every link behind the receiver of Lim 2014: 0.9998 of the best key up to 18 dB of loss,
0.995 at 22 dB, and at 26 dB 0.97 from 10^10.5 pulses on (`python -m agents.practice.decoy_block --settings`).
The optima are those of `two_decoy_key` at 15 dB, eps_sec = 1e-10, mu3 = 2e-4, by a cross-entropy search over the five
settings (512 samples, 80 rounds).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from qkd_gym.physics.information import as_float

#: log10(pulses x transmittance, receiver included) of the table's first row and the step between rows.
FIRST, STEP = 5.75, 0.25

# fmt: off
#: Columns: mu1, mu2 [photon/pulse], probability of mu1, of mu2, of the key basis.
TABLE = np.array([
    [0.5574, 0.1759, 0.0952, 0.5299, 0.6021],
    [0.5331, 0.1926, 0.1241, 0.5411, 0.6560],
    [0.5130, 0.2053, 0.1542, 0.5441, 0.7009],
    [0.4962, 0.2151, 0.1867, 0.5400, 0.7388],
    [0.4818, 0.2226, 0.2228, 0.5287, 0.7710],
    [0.4698, 0.2279, 0.2639, 0.5097, 0.7984],
    [0.4598, 0.2311, 0.3110, 0.4826, 0.8217],
    [0.4521, 0.2320, 0.3641, 0.4478, 0.8415],
    [0.4466, 0.2307, 0.4217, 0.4070, 0.8583],
    [0.4434, 0.2274, 0.4806, 0.3635, 0.8725],
    [0.4423, 0.2222, 0.5377, 0.3204, 0.8848],
    [0.4431, 0.2155, 0.5909, 0.2800, 0.8953],
    [0.4456, 0.2073, 0.6389, 0.2436, 0.9044],
    [0.4495, 0.1981, 0.6812, 0.2116, 0.9122],
    [0.4544, 0.1880, 0.7180, 0.1840, 0.9191],
    [0.4601, 0.1775, 0.7497, 0.1605, 0.9252],
    [0.4663, 0.1667, 0.7769, 0.1406, 0.9306],
    [0.4726, 0.1556, 0.7987, 0.1239, 0.9359],
    [0.4790, 0.1454, 0.8192, 0.1097, 0.9402],
    [0.4854, 0.1356, 0.8369, 0.0975, 0.9442],
    [0.4917, 0.1262, 0.8524, 0.0871, 0.9479],
    [0.4977, 0.1174, 0.8660, 0.0781, 0.9513],
    [0.5036, 0.1091, 0.8780, 0.0703, 0.9545],
    [0.5091, 0.1013, 0.8886, 0.0635, 0.9574],
], np.float32)
# fmt: on


def near_optimal_settings(pulses: ArrayLike, transmittance: ArrayLike) -> Float[Array, "... 5"]:
    """Settings (mu1, mu2, p1, p2, q) for a block of `pulses` over a `transmittance` that includes the receiver.

    Linear between the rows of `TABLE`, constant beyond its ends; no indexing, so it is cheap under `vmap`.
    """
    n, eta = as_float(pulses, transmittance)
    row = (jnp.log10(n) + jnp.log10(eta) - FIRST) / STEP
    row = jnp.clip(row, 0, len(TABLE) - 1)[..., None]
    rows = jnp.arange(len(TABLE), dtype=row.dtype).reshape((1,) * (row.ndim - 1) + (-1,))
    weights = jnp.maximum(1 - jnp.abs(row - rows), 0)
    return weights @ jnp.asarray(TABLE, row.dtype)
