"""Policies travel as data: what is saved comes back the same, and anything else is refused with a reason."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import zipfile

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("safetensors")
from safetensors.numpy import save

from qkd_gym.evaluation import policy_file
from qkd_gym.evaluation.agent import RandomAgent
from qkd_gym.evaluation.onnx_policy import OnnxPolicy
from qkd_gym.evaluation.policy_file import (
    FORMAT,
    LearnedPolicy,
    PolicyFileError,
    PolicySpec,
    gru_cell,
    load_policy,
    read_spec,
    save_policy,
)
from qkd_gym.evaluation.runner import evaluate, evaluate_vector
from tests.evaluation import onnx_writer as onnx
from tests.toys import Meet, Walk


def random_weights(spec: PolicySpec, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.shapes.items()}
    return weights | {"obs.std": np.exp(weights["obs.std"])}


@pytest.fixture
def walk_file(tmp_path):
    spec = PolicySpec.for_env(Walk(), hidden=(8, 8), provenance={"algo": "none", "seed": 1})
    return save_policy(tmp_path / "walker.safetensors", spec, random_weights(spec))


def by_hand(spec: PolicySpec, w: dict[str, np.ndarray], observations: np.ndarray) -> np.ndarray:
    """The documented network in NumPy float64, over a sequence of observations: the head's outputs."""
    act = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "silu": lambda x: x / (1 + np.exp(-x))}[spec.activation]
    w = {name: value.astype(np.float64) for name, value in w.items()}
    frames = np.concatenate([np.zeros((spec.history - 1, spec.obs_size)), observations])
    h, outs = np.zeros(spec.gru), []
    for t in range(len(observations)):
        x = (frames[t : t + spec.history].reshape(-1) - w["obs.mean"]) / w["obs.std"]
        x = np.clip(x, -spec.obs_clip, spec.obs_clip) if spec.obs_clip else x
        layers = [
            lambda x, i=i: act(x @ w[f"torso.{i}.kernel"] + w[f"torso.{i}.bias"]) for i in range(len(spec.hidden))
        ]
        x = layers[0](x) if layers else x
        if spec.gru:
            a, b, n = spec.gru, 2 * spec.gru, 3 * spec.gru
            gi, gh = x @ w["gru.kernel_i"] + w["gru.bias_i"], h @ w["gru.kernel_h"] + w["gru.bias_h"]
            r, z = 1 / (1 + np.exp(-gi[:a] - gh[:a])), 1 / (1 + np.exp(-gi[a:b] - gh[a:b]))
            x = h = (1 - z) * np.tanh(gi[b:n] + r * gh[b:n]) + z * h
        for layer in layers[1:]:
            x = layer(x)
        outs.append(x @ w["head.kernel"] + w["head.bias"])
    return np.array(outs)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hidden": (6, 5), "activation": "relu", "obs_clip": 1.5},
        {"hidden": (6, 5), "gru": 4, "activation": "silu", "history": 3},
        {"gru": 4},
    ],
    ids=["linear", "mlp", "mlp-gru-history", "gru"],
)
def test_the_network_is_the_documented_one(fields, tmp_path):
    spec = PolicySpec(env_id="qkd/X-v0", obs_size=3, action_kind="continuous", action_sizes=(2,), **fields)
    weights = random_weights(spec)
    agent = load_policy(save_policy(tmp_path / "p.safetensors", spec, weights))
    assert agent.spec == spec and agent.label == "p"
    observations = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    wide = (jnp.full(2, -1e6), jnp.full(2, 1e6))
    history, hidden, outs = jnp.zeros((spec.history - 1, 3)), jnp.zeros(spec.gru), []
    for obs in observations:
        out, history, hidden = agent._decide(jax.random.key(0), jnp.asarray(obs), history, hidden, None, wide)
        outs.append(out)
    np.testing.assert_allclose(outs, by_hand(spec, weights, observations), rtol=2e-5, atol=2e-5)


def test_the_gru_is_pytorchs():
    torch = pytest.importorskip("torch")
    cell = torch.nn.GRUCell(3, 4)
    weights = {
        "gru.kernel_i": cell.weight_ih.T,
        "gru.kernel_h": cell.weight_hh.T,
        "gru.bias_i": cell.bias_ih,
        "gru.bias_h": cell.bias_hh,
    }
    weights = {name: jnp.asarray(value.detach().numpy()) for name, value in weights.items()}
    x, h = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    expected = cell(torch.tensor(x[:3]), torch.tensor(h)).detach().numpy()
    np.testing.assert_allclose(gru_cell(weights, jnp.asarray(x[:3]), jnp.asarray(h)), expected, rtol=1e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class ManyChoices(Walk):
    def action_space(self, params=None):
        return gym.spaces.MultiDiscrete([2, 4, 3])


def test_actions():
    out = jnp.asarray([0.5, 2.0, -3.0])
    box = gym.spaces.Box(np.float32([-1, 0, -1]), np.float32([1, 1, 1]))
    spec = PolicySpec(env_id="e", obs_size=1, action_kind="continuous", action_sizes=(3,))
    bounds = policy_file._bounds(box)
    np.testing.assert_allclose(LearnedPolicy(spec=spec)._action(out, None, bounds), [0.5, 1, -1])
    squashed = LearnedPolicy(spec=dataclasses.replace(spec, squash="tanh"))._action(out, None, bounds)
    np.testing.assert_allclose(squashed, [np.tanh(0.5), (1 + np.tanh(2)) / 2, np.tanh(-3)], rtol=1e-6)
    discrete = LearnedPolicy(spec=dataclasses.replace(spec, action_kind="discrete"))
    bounds = policy_file._bounds(gym.spaces.Discrete(3, start=4))
    assert discrete._action(out, None, bounds) == 5
    assert discrete._action(out, jnp.asarray([True, False, True]), bounds) == 4
    many = PolicySpec.for_env(ManyChoices())
    logits = jnp.asarray([1.0, 2, 0, 0, 0, 9, 5, 1, 1])
    np.testing.assert_array_equal(LearnedPolicy(spec=many)._action(logits, None, (0, 0)), [1, 3, 0])


def test_a_stochastic_policy_draws(tmp_path):
    keys = jax.random.split(jax.random.key(0), 20_000)

    def drawn(spec, weights, low, high, mask=None):
        agent = load_policy(save_policy(tmp_path / "p.safetensors", spec, weights))
        empty = (jnp.zeros(1), jnp.zeros((0, 1)), jnp.zeros(0), mask, (low, high))
        return np.asarray(jax.vmap(lambda key: agent._decide(key, *empty)[0])(keys))

    fields = dict(env_id="e", obs_size=1, stochastic=True)
    spec = PolicySpec(action_kind="continuous", action_sizes=(2,), **fields)
    assert spec.shapes["head.log_std"] == (2,)
    plain = {"obs.mean": np.zeros(1), "obs.std": np.ones(1)}
    mean, log_std = np.array([0.5, -1.0]), np.array([-1.0, 0.0])
    weights = plain | {"head.kernel": np.zeros((1, 2)), "head.bias": mean, "head.log_std": log_std}
    actions = drawn(spec, weights, jnp.float32(-9), jnp.float32(9))
    # Five standard errors of 20,000 draws.
    np.testing.assert_allclose((actions.mean(0) - mean) / np.exp(log_std), 0, atol=5 / np.sqrt(20_000))
    np.testing.assert_allclose(actions.std(0), np.exp(log_std), rtol=5 / np.sqrt(40_000))
    logits = np.log([0.2, 0.5, 0.3])
    weights = plain | {"head.kernel": np.zeros((1, 3)), "head.bias": logits}
    spec = PolicySpec(action_kind="discrete", action_sizes=(3,), **fields)
    actions = drawn(spec, weights, jnp.int32(0), jnp.int32(0), jnp.asarray([True, False, True]))
    assert set(actions) == {0, 2} and abs((actions == 0).mean() - 0.4) < 0.018
    with pytest.raises(PolicyFileError, match="stochastic = 1"):
        PolicySpec(**{**fields, "stochastic": 1}, action_kind="discrete", action_sizes=(3,))


def test_it_plays(walk_file):
    results = evaluate(Walk(), load_policy(walk_file, Walk()), 8)
    spec, weights = read_spec(walk_file), load_policy(walk_file).weights
    weights = {name: np.asarray(value) for name, value in weights.items()}

    class ByHand:
        def start(self, num_envs):
            pass

        def act(self, observations, masks):
            return np.clip([by_hand(spec, weights, obs[None])[0] for obs in observations], -1, 1)

    np.testing.assert_allclose(evaluate_vector(Walk(), ByHand(), 8).returns, results.returns, rtol=1e-4)
    assert spec.provenance == {"algo": "none", "seed": 1}


def test_many_agents_share_one_network(tmp_path):
    env = Meet()
    spec = PolicySpec.for_env(env, hidden=(4,), gru=3)
    path = save_policy(tmp_path / "m.safetensors", spec, random_weights(spec))
    results = evaluate(env, load_policy(path, env), 4)
    assert results.agent_returns.shape == (4, 3)
    assert (results.agent_returns[:, 0] == 9).all()  # agent 0 took no illegal action: the mask was heeded
    assert not np.array_equal(results.returns, evaluate(env, RandomAgent.of(env), 4).returns)


def test_sizes():
    spec = PolicySpec(env_id="e", obs_size=10, action_kind="continuous", action_sizes=(2,), hidden=(64, 64))
    assert spec.parameters == 20 + (10 * 64 + 64) + (64 * 64 + 64) + (64 * 2 + 2)
    assert spec.multiply_adds == 10 + 10 * 64 + 64 * 64 + 64 * 2


def write(path, metadata, arrays):
    path.write_bytes(save(arrays, metadata=metadata))
    return path


def test_foreign_and_damaged_files(walk_file, tmp_path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("it was unpickled",)

    whole = walk_file.read_bytes()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("policy.pth", pickle.dumps(Bomb()))
    cases = {
        "no such file": None,
        "never loaded": pickle.dumps(Bomb()),
        "can run code": zipped.getvalue(),
        "not a valid safetensors file": whole[: len(whole) // 2],
        "not a valid": b"",
        "valid safetensors": b"\xff" * 100,
    }
    for message, content in cases.items():
        path = tmp_path / "bad.safetensors"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(PolicyFileError, match=message) as error:
            load_policy(path)
        assert str(path) in str(error.value)


def test_headers_are_checked(walk_file, tmp_path):
    spec = read_spec(walk_file)
    header = json.loads(json.dumps(dataclasses.asdict(spec)))
    weights = random_weights(spec)
    path = tmp_path / "bad.safetensors"
    with pytest.raises(PolicyFileError, match="format None"):
        load_policy(write(path, {}, weights))
    with pytest.raises(PolicyFileError, match="no JSON"):
        load_policy(write(path, {"format": FORMAT, "spec": "{"}, weights))
    with pytest.raises(PolicyFileError, match="exactly"):
        load_policy(write(path, {"format": FORMAT, "spec": json.dumps({**header, "code": "print()"})}, weights))
    bad = {
        "activation": "__import__('os')",
        "action_kind": ["continuous"],
        "squash": None,
        "obs_size": -1,
        "gru": 2.5,
        "history": True,
        "hidden": [8, "8"],
        "action_sizes": [1, 1],
        "obs_clip": float("nan"),
        "env_id": "x\ny",
        "provenance": 3,
    }
    for name, value in bad.items():
        text = json.dumps({**header, name: value})
        with pytest.raises(PolicyFileError, match=name.split("_")[0]):
            load_policy(write(path, {"format": FORMAT, "spec": text}, weights))


def test_tensors_are_checked(walk_file, tmp_path):
    spec = read_spec(walk_file)
    weights = random_weights(spec)
    bad = {
        "missing": {k: v for k, v in weights.items() if k != "head.bias"},
        "unexpected": {**weights, "extra": np.zeros(1, np.float32)},
        r"float32\(2, 8\)": {**weights, "torso.0.kernel": np.zeros((8, 2), np.float32)},
        "NaN": {**weights, "head.bias": np.float32([np.nan])},
        "positive": {**weights, "obs.std": np.zeros(2, np.float32)},
    }
    text = json.dumps(dataclasses.asdict(spec))
    for message, arrays in bad.items():
        with pytest.raises(PolicyFileError, match=message):
            load_policy(write(tmp_path / "bad.safetensors", {"format": FORMAT, "spec": text}, arrays))
        with pytest.raises(PolicyFileError, match=message):
            save_policy(tmp_path / "never.safetensors", spec, arrays)
    halves = {name: value.astype(np.float16) for name, value in weights.items()}
    with pytest.raises(PolicyFileError, match="float16"):
        load_policy(write(tmp_path / "bad.safetensors", {"format": FORMAT, "spec": text}, halves))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.safetensors", "walker.safetensors"]


def test_a_policy_for_another_task_is_refused(walk_file):
    with pytest.raises(PolicyFileError, match="trained for qkd/Walk-v0, not for qkd/Meet-v0"):
        load_policy(walk_file, Meet())
    with pytest.raises(PolicyFileError, match="not for qkd/Meet-v0"):
        evaluate(Meet(), load_policy(walk_file), 1)
    spec = dataclasses.replace(read_spec(walk_file), obs_size=3)
    with pytest.raises(PolicyFileError, match="reads 3 observation components"):
        policy_file.check_fits(spec, Walk())
    spec = dataclasses.replace(read_spec(walk_file), action_kind="discrete")
    with pytest.raises(PolicyFileError, match=r"acts as discrete\[1\]"):
        policy_file.check_fits(spec, Walk())


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def test_onnx_scores_like_the_same_network_in_jax(tmp_path):
    pytest.importorskip("onnxruntime")
    spec = PolicySpec.for_env(Walk(), hidden=(6,))
    weights = random_weights(spec) | {"obs.mean": np.zeros(2, np.float32), "obs.std": np.ones(2, np.float32)}
    nodes = [
        onnx.node("Gemm", ["obs", "torso.0.kernel", "torso.0.bias"], "a"),
        onnx.node("Tanh", ["a"], "b"),
        onnx.node("Gemm", ["b", "head.kernel", "head.bias"], "c"),
        onnx.node("Clip", ["c", "low", "high"], "action"),
    ]
    constants = [onnx.constant(name, value) for name, value in weights.items() if not name.startswith("obs")]
    constants += [onnx.constant("low", np.array(-1)), onnx.constant("high", np.array(1))]
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx.model(nodes, constants, [onnx.value("obs", 2)], [onnx.value("action", 1)]))
    through_onnx = evaluate_vector(Walk(), OnnxPolicy(path, Walk()), 16)
    in_jax = evaluate(Walk(), LearnedPolicy(weights=jax.tree.map(jnp.asarray, weights), spec=spec), 16)
    np.testing.assert_allclose(through_onnx.returns, in_jax.returns, rtol=1e-4)


def test_onnx_masks_and_state(tmp_path):
    """A graph that counts its steps in `state` and prefers action 0, then 1, then 2 by that count."""
    pytest.importorskip("onnxruntime")
    env = Meet()
    nodes = [
        onnx.node("Add", ["state", "one"], "next_state"),
        onnx.node("MatMul", ["obs", "pick"], "zero"),
        onnx.node("Mul", ["next_state", "slope"], "tilt"),
        onnx.node("Add", ["zero", "tilt"], "logits"),
    ]
    constants = [
        onnx.constant("one", np.ones((1, 1))),
        onnx.constant("pick", np.zeros((5, 3))),
        onnx.constant("slope", np.float32([[0, 1, 2]])),
    ]
    inputs = [onnx.value("obs", 5), onnx.value("state", 1)]
    path = tmp_path / "count.onnx"
    outputs = [onnx.value("logits", 3), onnx.value("next_state", 1)]
    path.write_bytes(onnx.model(nodes, constants, inputs, outputs))
    policy = OnnxPolicy(path, env)
    policy.start(2)
    mask = np.ones((2, 3, 3), bool)
    mask[0, 1] = [True, True, False]
    observations = np.zeros((2, 3, 5), np.float32)
    np.testing.assert_array_equal(policy.act(observations, mask), [[2, 1, 2], [2, 2, 2]])
    policy.act(observations, mask)
    np.testing.assert_array_equal(policy._state, np.full((6, 1), 2))
    policy.start(1)
    np.testing.assert_array_equal(policy._state, np.zeros((3, 1)))
    assert evaluate_vector(env, policy, 3).episodes == 3


def test_bad_onnx_files(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "x.onnx"
    with pytest.raises(PolicyFileError, match="no such file"):
        OnnxPolicy(path, Walk())
    path.write_bytes(b"not a graph")
    with pytest.raises(PolicyFileError, match="onnxruntime refuses"):
        OnnxPolicy(path, Walk())
    path.write_bytes(onnx.model([onnx.node("Tanh", ["x"], "y")], [], [onnx.value("x", 2)], [onnx.value("y", 2)]))
    with pytest.raises(PolicyFileError, match="its inputs are x"):
        OnnxPolicy(path, Walk())
    path.write_bytes(onnx.model([onnx.node("Tanh", ["obs"], "y")], [], [onnx.value("obs", 2)], [onnx.value("y", 2)]))
    with pytest.raises(PolicyFileError, match="action or logits"):
        OnnxPolicy(path, Walk())
