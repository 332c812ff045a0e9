"""Turbulence: profile moments against numerical integrals, gamma quantiles against SciPy, the law of what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from qkd_gym.physics import turbulence
from qkd_gym.physics.turbulence import HufnagelValley
from tests.physics.conftest import precision

QUANTILE = jax.jit(turbulence.log_gamma_quantile)
FADING = jax.jit(turbulence.fading)
FADE = jax.jit(turbulence.fade)


def textbook(h, wind=21.0, ground=1.7e-14):
    high = 0.00594 * (wind / 27) ** 2 * (1e-5 * h) ** 10 * np.exp(-h / 1000)
    return high + 2.7e-16 * np.exp(-h / 1500) + ground * np.exp(-h / 100)


def test_profile(dtype):
    h = np.array([0, 10, 100, 1000, 5000, 10_000, 20_000], dtype)
    got = turbulence.structure_parameter(HufnagelValley(), h)
    np.testing.assert_allclose(got, textbook(h.astype(float)), rtol=3e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("power", [0.0, 5 / 6, 5 / 3])
@pytest.mark.parametrize("profile", [(21.0, 1.7e-14, 20_000.0), (10.0, 5e-15, 3_000.0), (40.0, 1e-13, 80_000.0)])
def test_moments_against_the_integral(profile, power, dtype):
    wind, ground, top = profile
    exact, _ = integrate.quad(
        lambda h: textbook(h, wind, ground) * h**power, 0, top, epsabs=0, epsrel=1e-12, limit=400,
        points=[100, 1000, min(10_000, top / 2)],
    )  # fmt: skip
    got = turbulence.structure_moment(HufnagelValley(*(dtype.type(x) for x in profile)), power)
    np.testing.assert_allclose(got, exact, rtol=1e-10 if dtype == np.float64 else 1e-5)


def test_the_profile_is_named_after_its_figures(x64):
    """HV 5/7: 5 cm Fried parameter and 7 urad isoplanatic angle at 500 nm, straight up."""
    profile = HufnagelValley()
    assert float(turbulence.fried_parameter_m(profile, 500.0, 0.0)) == pytest.approx(0.05, rel=0.02)
    k = 2 * np.pi / 500e-9
    angle = (2.914 * k * k * float(turbulence.structure_moment(profile, 5 / 3))) ** -0.6
    assert angle == pytest.approx(7e-6, rel=0.02)


def test_slant_paths_scale_with_the_secant(dtype):
    zeta = dtype.type(np.radians(60))
    profile = HufnagelValley()
    ratio = turbulence.rytov_variance(profile, dtype.type(850), zeta) / turbulence.rytov_variance(profile, 850.0, 0.0)
    np.testing.assert_allclose(ratio, 2 ** (11 / 6), rtol=1e-5)
    fried = [turbulence.fried_parameter_m(profile, dtype.type(w), zeta) for w in (850, 1700)]
    np.testing.assert_allclose(fried[1] / fried[0], 2**1.2, rtol=1e-5)


def test_gamma_gamma_limits(dtype):
    """Weak: the scintillation index is the Rytov variance. Strong: alpha grows, beta settles, the index saturates."""
    alpha, beta = turbulence.gamma_gamma_parameters(dtype.type(1e-4))
    np.testing.assert_allclose(turbulence.gamma_gamma_scintillation(alpha, beta), 1e-4, rtol=2e-4)
    alpha, beta = turbulence.gamma_gamma_parameters(dtype.type(1e6))
    assert float(beta) == pytest.approx(1 / np.expm1(0.51 * 0.69 ** (-5 / 6)), rel=1e-5) and float(alpha) > 500
    variance = np.logspace(-3, 4, 200).astype(dtype)
    alpha, beta = (np.asarray(v) for v in turbulence.gamma_gamma_parameters(variance))
    assert np.all(alpha > 3.9) and np.all(beta > 0.99)
    index = np.asarray(turbulence.gamma_gamma_scintillation(alpha, beta))
    assert 1 < index.max() < 1.5 and np.argmax(index) < 199  # it peaks, then saturates from above


def test_aperture_averaging(dtype):
    assert float(turbulence.aperture_averaging(dtype.type(0), 850.0, 1e4)) == 1
    d = np.linspace(0, 3, 40).astype(dtype)
    factor = np.asarray(turbulence.aperture_averaging(d, 850.0, 1e4))
    assert np.all(np.diff(factor) < 0) and np.all(factor > 0)
    metre = float(turbulence.aperture_averaging(dtype.type(1), 850.0, dtype.type(1e4)))
    assert metre == pytest.approx((1 + 1.062 * 2 * np.pi / 850e-9 / 4e4) ** (-7 / 6), rel=1e-5)


# ---- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "bound"), [(1, 0.02), (1.5, 0.0065), (2, 0.0028), (5, 2e-4), (20, 3e-6), (300, 3e-6)]
)
def test_gamma_quantile_error(shape, bound, dtype):
    """ln of the quantile over z = -3..3, against SciPy; Wilson-Hilferty is off by 0.06 at 5 and has no value at 1."""
    z = np.linspace(-3, 3, 121)
    exact = np.log(stats.gamma.isf(stats.norm.sf(z), shape) / shape)
    got = np.asarray(QUANTILE(dtype.type(shape), z.astype(dtype)), float)
    assert np.max(np.abs(got - exact)) < bound
    assert np.all(np.diff(got) > 0)


def test_float32_quantile_is_the_float64_one():
    z = np.linspace(-6.3, 6.3, 2001)
    for shape in (1.0, 1.7, 5.0, 40.0, 1e3):
        with precision("float64"):
            exact = np.asarray(QUANTILE(shape, z))
        with precision("float32"):
            got = np.asarray(QUANTILE(np.float32(shape), z.astype(np.float32)), float)
        assert np.max(np.abs(got - exact) / np.maximum(np.abs(exact), 0.1)) < 1e-5


def moments(rytov, averaging):
    """Mean and index of `fade`, by Gauss-Hermite over both normals."""
    z, weight = np.polynomial.hermite_e.hermegauss(101)
    weight = weight / weight.sum()
    grid = np.stack(np.meshgrid(z, z, indexing="ij"), axis=-1)
    law = jax.tree.map(lambda x: jnp.broadcast_to(x, grid.shape[:-1]), FADING(rytov, averaging))
    power = np.asarray(FADE(law, grid), float)
    mean = np.einsum("i,j,ij", weight, weight, power)
    return mean, np.einsum("i,j,ij", weight, weight, power**2) / mean**2 - 1


@pytest.mark.parametrize("averaging", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("rytov", [1e-4, 0.1, 0.49, 0.51, 1.0, 4.0, 30.0, 1e4])
def test_fading_has_unit_mean_and_the_stated_scintillation(rytov, averaging, x64):
    mean, index = moments(rytov, averaging)
    if rytov < turbulence.WEAK_BELOW:
        want, slack = averaging * np.expm1(rytov), 1e-9
    else:
        alpha, beta = turbulence.gamma_gamma_parameters(rytov)
        want, slack = averaging * float(turbulence.gamma_gamma_scintillation(alpha, beta)), 0.005
    assert mean == pytest.approx(1, abs=1e-9 if rytov < 0.5 else 6e-4)
    assert index == pytest.approx(want, rel=slack)


def test_drawn_fading_follows_the_gamma_gamma_law():
    """Kolmogorov-Smirnov distance of 2e5 draws in float32 to the exact law, SciPy's gamma mixed over a quadrature."""
    law = FADING(2.0)
    alpha, beta = float(law.alpha), float(law.beta)
    n = 200_000
    draws = np.sort(
        np.asarray(
            FADE(
                jax.tree.map(lambda x: jnp.full(n, x), law), jax.random.normal(jax.random.key(9), (n, 2), jnp.float32)
            ),
            float,
        )
    )
    u = (np.arange(4000) + 0.5) / 4000
    large = stats.gamma.ppf(u, alpha) / alpha
    x = np.quantile(draws, np.linspace(0.001, 0.999, 120))
    exact = stats.gamma.cdf(beta * x[:, None] / large[None, :], beta).mean(axis=1)
    empirical = np.searchsorted(draws, x) / n
    assert np.max(np.abs(exact - empirical)) < 1.95 / np.sqrt(n) + 2e-3  # 0.1 % level, and the quantile's own error


def test_both_laws_nearly_agree_where_they_meet(x64):
    """At the switch the index jumps from e^0.5 - 1 to the gamma-gamma one: a known seam of the two models."""
    (_, below), (_, above) = moments(0.4999, 1.0), moments(0.5001, 1.0)
    assert above < below < 1.6 * above


def test_gradients_are_finite(x64):
    @jax.jit
    def power(rytov, averaging, z0, z1):
        return turbulence.fade(turbulence.fading(rytov, averaging), jnp.stack([z0, z1]))

    gradient = jax.jit(jax.grad(power, (0, 1, 2, 3)))
    for rytov in (0.0, 0.2, 2.0, 100.0):
        for z in (-4.0, 0.0, 0.3, 5.0):
            assert np.all(np.isfinite(gradient(rytov, 0.5, z, -z)))
    point = (2.0, 0.5, 0.7, -1.2)
    for i, slope in enumerate(gradient(*point)):
        h = 1e-5
        up, down = ([p + (sign * h if i == j else 0) for j, p in enumerate(point)] for sign in (1, -1))
        np.testing.assert_allclose(slope, (power(*up) - power(*down)) / (2 * h), rtol=1e-6)


@settings(deadline=None, max_examples=80)
@given(st.floats(0, 1e6), st.floats(0, 1), st.floats(-6.3, 6.3), st.floats(-6.3, 6.3))
def test_nothing_is_nan(rytov, averaging, z0, z1):
    with precision("float32"):
        law = FADING(np.float32(rytov), np.float32(averaging))
        power = float(FADE(law, np.array([z0, z1], np.float32)))
        assert np.isfinite(power) and power >= 0


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 100), st.floats(0, 1e-11), st.floats(1, 1e5), st.floats(300, 3000), st.floats(0, np.radians(85)))
def test_strengths_are_finite(wind, ground, top, wavelength, zenith):
    with precision("float32"):
        profile = HufnagelValley(*(np.float32(x) for x in (wind, ground, top)))
        rytov = turbulence.rytov_variance(profile, np.float32(wavelength), np.float32(zenith))
        r0 = turbulence.fried_parameter_m(profile, np.float32(wavelength), np.float32(zenith))
        assert np.isfinite(rytov) and rytov >= 0 and np.isfinite(r0) and r0 > 0
