"""Edges of parameter ranges, and what must hold there: nothing is NaN or infinite, in values or in derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.physics.conftest import precision

#: Transmittance of 0 to 400 dB, and nothing at all.
TRANSMITTANCE = st.sampled_from([0.0, 1e-20, 1e-10, 0.5, 1.0]) | st.floats(0, 400).map(lambda db: 10 ** (-db / 10))
#: Arms of 0 to 200 dB.
ARM = st.sampled_from([0.0, 1e-10, 1e-4, 1.0]) | st.floats(0, 200).map(lambda db: 10 ** (-db / 10))
DARK = st.sampled_from([0.0, 1e-12, 1e-6, 0.5]) | st.floats(-14, -0.31).map(lambda x: 10**x)
ERROR = st.sampled_from([0.0, 0.015, 0.5]) | st.floats(1e-6, 0.5)
PROBABILITY = st.sampled_from([0.0, 1.0]) | st.floats(1e-6, 1)
INTENSITY = st.sampled_from([0.0, 1e-6, 0.4, 10.0]) | st.floats(1e-6, 10)
EFFICIENCY = st.sampled_from([0.0, 1.0, 10.0]) | st.floats(0, 10)
PULSES = st.sampled_from([1.0, 1e6, 1e12, 1e18]) | st.floats(0, 18).map(lambda x: 10**x)


def plob(eta):
    """-log2(1 - eta) in float64 whatever JAX is set to: float32 has no rates of 380 dB."""
    return np.inf if eta >= 1 else -np.log1p(-eta) / np.log(2)


class Finite:
    """Checks a scalar function of scalars, `function(**values)`, and its gradient, in both precisions."""

    def __init__(self, function):
        self.function = jax.jit(jax.value_and_grad(lambda values: function(**values)))

    def __call__(self, **values):
        """The value in float64, after both precisions were found finite."""
        for dtype in ("float32", "float64"):
            with precision(dtype) as kind:
                rate, gradient = self.function({k: jnp.asarray(v, kind) for k, v in values.items()})
                assert np.isfinite(rate), (dtype, values)
                bad = {k: float(g) for k, g in gradient.items() if not np.isfinite(g)}
                assert not bad, (dtype, bad, values)
        return float(rate)

    def check_gradient(self, **values):
        """The gradient against central differences of relative step 1e-5, in float64, as a share of the value."""
        with precision("float64"):
            values = {k: jnp.asarray(v, np.float64) for k, v in values.items()}
            rate, gradient = self.function(values)
            for name, x in values.items():
                up, down = (self.function(values | {name: x * (1 + step)})[0] for step in (1e-5, -1e-5))
                np.testing.assert_allclose(x * gradient[name], (up - down) / 2e-5, rtol=1e-5, atol=1e-8 * abs(rate))
