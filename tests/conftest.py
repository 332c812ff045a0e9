"""Settings of every test: CPU, two devices, strict promotion of dtypes and ranks, the same examples every time.

`pytest --hypothesis-profile searching` draws new examples instead: for a search, not for a verdict on a change.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
# Programs that commands keep on disk would outlive the test that ran them.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ.get("QKD_GYM_TEST_X64"):
    jax.config.update("jax_enable_x64", True)

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("searching", print_blob=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """A process may have 65,530 memory maps (Linux, `vm.max_map_count`), each program takes some, and XLA crashes at
    the end of them: the whole suite in two processes comes close."""
    yield
    jax.clear_caches()
