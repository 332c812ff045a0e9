"""Foreign trainers, unmodified, on our faces. They pin other versions than ours: `make consumers` builds their own
environment and passes `--consumers`; without it these tests are skipped."""

import importlib

import jax
import pytest

NEEDED = ("gymnax", "jaxmarl", "rejax", "stable_baselines3", "sb3_contrib")


def pytest_addoption(parser):
    parser.addoption("--consumers", action="store_true", help="train foreign trainers (in their own environment)")


def pytest_configure(config):
    if config.getoption("--consumers", default=False):
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise pytest.UsageError(f"--consumers needs {', '.join(missing)}; run: make consumers")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--consumers", default=False):
        return
    here = [item for item in items if "consumers" in item.path.parts]
    for item in here:
        item.add_marker(pytest.mark.skip(reason="foreign trainers; run: make consumers"))


@pytest.fixture(autouse=True)
def their_own_habits():
    """Foreign code promotes ranks as it likes."""
    with jax.numpy_rank_promotion("allow"):
        yield
