"""Evaluations that are done once: each is kept in a file named by the hash of everything that its result depends on."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import platform
import re
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

import qkd_gym
from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.footprint import Footprint, measure
from qkd_gym.evaluation.runner import EpisodeResults, Progress, evaluate
from qkd_gym.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "evaluations"
#: Packages of ours that tasks and agents are made of, and those in which data files count as sources.
_OURS = ("qkd_gym", "agents")
_DATA = ("qkd_gym.physics", "qkd_gym.envs", "agents")
#: A list of tasks: no result depends on it.
_NO_SOURCE = ("qkd_gym.registration",)


@dataclasses.dataclass(frozen=True)
class Job:
    """One agent on one scenario of one task; episodes `first` ... `first + episodes - 1` of a seed."""

    env: Environment
    name: str
    agent: Any
    episodes: int
    seed: int
    first: int = 0

    @functools.cached_property
    def digest(self) -> str:
        facts = {
            "env": self.env.id,
            "fields": repr(self.env),
            "agent": fingerprint(self.agent),
            "episodes": [self.first, self.episodes, self.seed],
            "dynamics": _sources(*_modules(self.env), "qkd_gym.evaluation.runner"),
            "versions": [qkd_gym.__version__, jax.__version__, jax.default_backend()],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]

    @property
    def path(self) -> Path:
        safe = re.sub(r"[^\w.-]+", "_", f"{self.env.name}-v{self.env.version}-{self.env.scenario}-{self.name}")
        return CACHE / f"{safe}-{self.digest}.npz"

    def stored(self) -> EpisodeResults | None:
        """The result, if it is there and whole."""
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as file:
                return _unpack(dict(file))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):  # missing or damaged
            return None

    def run(self, progress: Progress | None = None) -> EpisodeResults:
        """The stored result, or else that of playing, which is then stored."""
        if (done := self.stored()) is not None:
            return done
        results = evaluate(self.env, self.agent, self.episodes, self.seed, first=self.first, progress=progress)
        packed = io.BytesIO()
        np.savez(packed, **_pack(results))
        write_atomic(self.path, packed.getvalue())
        return results


def fingerprint(agent: Any) -> str:
    """Hash of an agent: its class's source and what that imports of ours, its settings, its arrays, its data files."""
    digest = hashlib.sha256()
    classes = type(agent).__mro__
    digest.update(" ".join(f"{cls.__module__}.{cls.__qualname__}" for cls in classes).encode())
    digest.update(_sources(*(cls.__module__ for cls in classes)).encode())
    leaves, structure = jax.tree.flatten(agent)
    digest.update(_without_addresses(str(structure)))
    for leaf in leaves:
        if isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(_without_addresses(repr(leaf)))
    return digest.hexdigest()


def _without_addresses(text: str) -> bytes:
    """The repr of a function or a compiled program holds an address that differs from run to run."""
    return re.sub(r"0x[0-9a-f]+", "", text).encode()


def _modules(env: Environment) -> tuple[str, ...]:
    """Where a task's dynamics are written, and those of the task that it wraps, if any."""
    inner = [getattr(env, field.name) for field in dataclasses.fields(env)]
    wrapped = [name for one in inner if isinstance(one, Environment) for name in _modules(one)]
    return type(env).__module__, *wrapped


@functools.cache
def _sources(*modules: str) -> str:
    """Hash of these modules, of what they import of ours, and of the data files that lie beside those."""
    seen: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name in seen or name in _NO_SOURCE or name.partition(".")[0] not in _OURS:
            continue
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # `from module import name`: no module of that name
            continue
        if spec is None or spec.origin is None:
            continue
        seen[name] = Path(spec.origin)
        for node in ast.walk(ast.parse(seen[name].read_text())):
            if isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    folders = {path.parent for name, path in seen.items() if name.startswith(_DATA) and "." in name}
    data = {path for folder in folders for path in folder.iterdir() if path.suffix in (".npz", ".npy", ".json", ".csv")}
    digest = hashlib.sha256()
    for path in sorted({*seen.values(), *data}):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _pack(results: EpisodeResults) -> dict[str, np.ndarray]:
    head = {name: getattr(results, name) for name in ("env_id", "scenario", "seed", "first", "agent")}
    arrays = {"head": np.array(json.dumps(head)), "agent_returns": results.agent_returns}
    arrays |= {"lengths": results.lengths, "terminated": results.terminated}
    arrays |= {f"sum:{name}": value for name, value in results.sums.items()}
    return arrays | {f"final:{name}": value for name, value in results.finals.items()}


def _unpack(arrays: dict[str, np.ndarray]) -> EpisodeResults:
    def named(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

    return EpisodeResults(
        **json.loads(str(arrays["head"])),
        returns=arrays["agent_returns"].mean(axis=1),
        agent_returns=arrays["agent_returns"],
        lengths=arrays["lengths"],
        terminated=arrays["terminated"],
        sums=named("sum:"),
        finals=named("final:"),
    )


def merge(pieces: list[EpisodeResults]) -> EpisodeResults:
    """Results of consecutive stretches of episodes as one."""
    arrays = [_pack(piece) for piece in pieces]
    joined = {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0] if name != "head"}
    return _unpack({"head": arrays[0]["head"], **joined})


def footprint_of(path: Path, env: Environment) -> Footprint:
    """`measure`, kept for this file, task and processor."""
    facts = [path.read_bytes(), env.id.encode(), processor().encode(), jax.__version__.encode()]
    kept = CACHE / f"footprint-{path.stem}-{hashlib.sha256(b'|'.join(facts)).hexdigest()[:24]}.json"
    try:
        return Footprint(**json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):  # missing, or cut short by a kill
        pass
    measured = measure(path, env)
    write_atomic(kept, json.dumps(dataclasses.asdict(measured)).encode())
    return measured


def commit() -> str | None:
    """The commit of this clone, with "+" if tracked files differ from it; None outside of one."""
    try:
        options: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def processor() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep_compiled_programs() -> None:
    """Keep what XLA compiles in `.cache/jax`, so that the next run starts at once."""
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
