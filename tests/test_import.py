"""Importing the package is cheap, and imports run one way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROBE = """
import json, sys, time
before = set(sys.modules)
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
from jax._src import xla_bridge
print(json.dumps({{
    "seconds": seconds,
    "new": sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}),
    "ours": sorted(name for name in sys.modules if name.startswith("qkd_gym")),
    "backends": sorted(xla_bridge._backends),
}}))
"""

#: What only some users have, or what takes long to import.
OPTIONAL = {
    "IPython", "flax", "gymnax", "jaxmarl", "matplotlib", "networkx", "onnxruntime", "optax", "pandas", "pettingzoo",
    "PIL", "pygame", "rejax", "rich", "safetensors", "sb3_contrib", "scipy", "stable_baselines3", "tensorboard",
    "torch", "yaml",
}  # fmt: skip


def probe(statement):
    out = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(out.stdout)


@pytest.fixture(scope="module")
def jax_alone():
    """What JAX and Gymnasium bring along by themselves is not ours to answer for."""
    return probe("import jax, jax.numpy, gymnasium, gymnasium.vector")


def test_the_package_starts_no_backend_and_imports_nothing_optional(jax_alone):
    seen = probe("import qkd_gym")
    assert seen["backends"] == []
    assert set(seen["new"]) & OPTIONAL <= set(jax_alone["new"]) & OPTIONAL
    light = {"qkd_gym", "qkd_gym.envs", "qkd_gym.envs.core", "qkd_gym.registration", "qkd_gym.struct"}
    assert set(seen["ours"]) <= light, "physics, tasks, faces and pictures load when they are used"
    assert seen["seconds"] < jax_alone["seconds"] + 2.0, (seen["seconds"], jax_alone["seconds"])


@pytest.mark.parametrize(
    "module",
    [
        "qkd_gym.adapters.gymnasium",
        "qkd_gym.adapters.gymnasium_vector",
        "qkd_gym.adapters.gymnax",
        "qkd_gym.adapters.jaxmarl",
        "qkd_gym.envs.centralised",
        "qkd_gym.pettingzoo.key_routing_v0",
        "qkd_gym.rendering",
        "qkd_gym.testing",
        "qkd_gym.envs.calibration.polarization",
        "qkd_gym.envs.calibration.decoy_block",
    ],
)
def test_no_module_of_the_core_needs_an_extra_or_starts_a_backend(module, jax_alone):
    seen = probe(f"import {module}")
    assert seen["backends"] == []
    assert set(seen["new"]) & OPTIONAL <= set(jax_alone["new"]) & OPTIONAL


def test_missing_extras_are_named():
    code = "import sys; sys.modules['stable_baselines3'] = None\nimport qkd_gym.adapters.sb3"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode != 0 and "pip install 'qkd-gym[agents]'" in out.stderr.splitlines()[-1]


def test_imports_run_one_way():
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS
