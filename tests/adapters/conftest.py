"""Shared by the tests of the faces."""

import contextlib

import jax
import pytest

_EVENTS: list[str] = []


def _listen(event: str, duration: float, **kwargs) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _EVENTS.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


@pytest.fixture
def compilations():
    """`with compilations() as count: ...` then `count()` programs were compiled inside."""

    @contextlib.contextmanager
    def watch():
        start = len(_EVENTS)
        yield lambda: len(_EVENTS) - start

    return watch
