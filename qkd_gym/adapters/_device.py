"""Where the programs of the Python faces run."""

from __future__ import annotations

import functools
from typing import Any

import jax


@functools.lru_cache(maxsize=1)
def calling_thread() -> Any:
    """A CPU device whose programs run in the calling thread.

    JAX's own CPU device hands every program to another thread and comes back at once. A face that needs the result
    next gains nothing by that and pays the hand-over, about three times the cost of a small step. JAX has a
    process-wide switch for it (`jax_cpu_enable_async_dispatch`); a client of our own leaves the user's programs alone.
    """
    try:
        from jaxlib import xla_client

        return xla_client.make_cpu_client(asynchronous=False).local_devices()[0]
    except (ImportError, AttributeError, TypeError):  # a jaxlib that makes its clients differently: only slower
        return jax.local_devices(backend="cpu")[0]


def resolve(device: Any, *, small: bool) -> Any:
    """The device for a face. None: the calling thread's for small work and where there is no accelerator.

    Args:
        device: None, a platform's name such as ``"cpu"`` or ``"gpu"``, or a `jax.Device`.
        small: whether a call does too little work to be worth an accelerator's launch.
    """
    if device is None:
        return calling_thread() if small or jax.default_backend() == "cpu" else jax.devices()[0]
    if isinstance(device, str):
        return calling_thread() if device == "cpu" else jax.devices(device)[0]
    if isinstance(device, jax.Device):
        return device
    raise ValueError(f"device = {device!r} must be None, a platform such as 'cpu' or 'gpu', or one of jax.devices()")
