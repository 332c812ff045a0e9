"""What one decision of a trained policy costs: measured here, never self-reported.

The clock runs in a process of its own, bound to one core before JAX starts::

    python -m qkd_gym.evaluation.footprint FILE MODULE:CLASS
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qkd_gym.envs.core import Environment

DECISIONS = 2000
_WARM_UP = 100
_ONE_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Size and speed of a policy. Sizes are None for an ONNX graph, whose contents are not ours to count.

    Attributes:
        parameters, multiply_adds: see `PolicySpec`; of one decision (of one agent, in a multi-agent task).
        median_us, p99_us: wall time from an observation in NumPy to an action in NumPy, on one core.
    """

    parameters: int | None
    multiply_adds: int | None
    median_us: float
    p99_us: float


def measure(path: str | Path, env: Environment, decisions: int = DECISIONS) -> Footprint:
    """Measure a policy file on one core of this machine."""
    task = f"{type(env).__module__}:{type(env).__qualname__}"
    command = [sys.executable, "-m", "qkd_gym.evaluation.footprint", str(path), task, str(decisions)]
    done = subprocess.run(command, env={**os.environ, **_ONE_THREAD}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {path} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _measure_here(path: Path, env: Environment, decisions: int) -> Footprint:
    from qkd_gym.evaluation.policy_file import read_spec

    onnx = path.suffix == ".onnx"
    decide = _onnx_decision(path, env) if onnx else _jax_decision(path, env)
    shape = env.observation_space().shape or ()
    shape = (len(env.agents), *shape) if env.agents else shape
    observations = np.random.default_rng(0).uniform(-1, 1, (decisions + _WARM_UP, *shape)).astype(np.float32)
    times = np.empty(len(observations))
    for i, obs in enumerate(observations):
        start = time.perf_counter_ns()
        decide(obs)
        times[i] = (time.perf_counter_ns() - start) / 1e3
    median, p99 = np.percentile(times[_WARM_UP:], [50, 99])
    spec = None if onnx else read_spec(path)
    return Footprint(
        parameters=spec.parameters if spec else None,
        multiply_adds=spec.multiply_adds if spec else None,
        median_us=round(float(median), 1),
        p99_us=round(float(p99), 1),
    )


def _jax_decision(path: Path, env: Environment) -> Callable[[np.ndarray], np.ndarray]:
    import jax

    from qkd_gym.evaluation.policy_file import load_policy

    policy = load_policy(path, env)
    key = jax.random.key(0)
    memory = [policy.init(key, env, env.default_params)]
    mask = env.mask(env.reset(key)[1])
    act = jax.jit(policy.act)

    def decide(obs: np.ndarray) -> np.ndarray:
        action, memory[0] = act(key, memory[0], obs, mask)
        return np.asarray(action)

    return decide


def _onnx_decision(path: Path, env: Environment) -> Callable[[np.ndarray], np.ndarray]:
    import jax

    from qkd_gym.evaluation.onnx_policy import OnnxPolicy

    policy = OnnxPolicy(path, env)
    policy.start(1)
    mask = env.mask(env.reset(jax.random.key(0))[1])
    masks = None if mask is None else np.asarray(mask)[None]
    return lambda obs: policy.act(obs[None], masks)


def _main(path: str, task: str, decisions: str) -> None:
    if hasattr(os, "sched_setaffinity"):  # Linux; elsewhere the thread limits have to do
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    module, _, name = task.partition(":")
    env = getattr(importlib.import_module(module), name)()
    print(json.dumps(dataclasses.asdict(_measure_here(Path(path), env, int(decisions)))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
