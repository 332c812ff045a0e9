"""Both precisions in one process."""

import contextlib

import jax
import numpy as np
import pytest


@contextlib.contextmanager
def precision(dtype):
    """Run JAX in the given precision: float64 switches x64 on, float32 off, whatever the process does."""
    with jax.enable_x64(np.dtype(dtype) == np.float64):
        yield np.dtype(dtype)


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    """Each test runs in float64 and in float32."""
    with precision(request.param) as kind:
        yield kind


@pytest.fixture
def x64():
    """The test runs in float64."""
    with precision("float64"):
        yield
