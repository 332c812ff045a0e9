"""The board: nothing is repeated, everything that matters is in the key, and what is printed is what was played."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import threading
import time
import types

import numpy as np
import pytest
from rich.console import Console

from agents import registry
from benchmarks import reference
from benchmarks.leaderboard import __main__ as leaderboard
from benchmarks.leaderboard import jobs, table
from benchmarks.leaderboard.entries import Played, make_board
from benchmarks.leaderboard.jobs import Job, fingerprint, merge
from qkd_gym.envs.centralised import Centralised
from qkd_gym.evaluation import scores
from qkd_gym.evaluation.agent import PassiveAgent, RandomAgent
from qkd_gym.evaluation.policy_file import LearnedPolicy, PolicySpec, save_policy
from qkd_gym.evaluation.protocol import PROTOCOLS
from qkd_gym.evaluation.runner import evaluate
from tests.evaluation.test_policy_file import random_weights
from tests.evaluation.test_runner import LinearPolicy, SeesAll, Steer, WindyWalk
from tests.toys import Meet, Walk

ENV = WindyWalk()
AGENTS = {
    "random": RandomAgent.of(ENV),
    "passive": PassiveAgent.of(ENV),
    "gentle": Steer(gain=1.0),
    "firm": Steer(gain=4.0),
    "seer": SeesAll(),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(jobs, "keep_compiled_programs", lambda: None)


@pytest.fixture
def toy_world(monkeypatch, tmp_path):
    """The two programs see one toy task, and a reference file of its own."""
    for module in (leaderboard, reference):
        monkeypatch.setattr(module, "TASKS", {"qkd/WindyWalk-v0": ""})
        monkeypatch.setattr(module, "make", lambda task: ENV)
        monkeypatch.setattr(module, "agents_for", lambda env: AGENTS)
        monkeypatch.setattr(module, "keep_compiled_programs", lambda: None)
    file = tmp_path / "reference.json"
    monkeypatch.setattr(scores, "_shipped", lambda: json.loads(file.read_text()))
    file.write_text('{"schema": 2, "tasks": {}}')
    monkeypatch.setattr(reference, "STRETCH", 32)
    return file


def test_a_finished_job_is_not_played_again(monkeypatch):
    job = Job(ENV, "firm", Steer(gain=4.0), 8, seed=1)
    first = job.run()
    monkeypatch.setattr(jobs, "evaluate", lambda *a, **k: pytest.fail("it was played again"))
    again = Job(ENV, "firm", Steer(gain=4.0), 8, seed=1).run()
    for field in dataclasses.fields(first):
        np.testing.assert_equal(getattr(again, field.name), getattr(first, field.name))


def test_a_damaged_file_is_played_again():
    job = Job(ENV, "firm", Steer(gain=4.0), 8, seed=1)
    expected = job.run().returns
    job.path.write_bytes(job.path.read_bytes()[:200])
    assert job.stored() is None
    np.testing.assert_array_equal(job.run().returns, expected)
    assert job.stored() is not None


def test_the_key_holds_what_matters(monkeypatch):
    base = Job(ENV, "firm", Steer(gain=4.0), 8, seed=1)
    changed = [
        dataclasses.replace(base, agent=Steer(gain=4.1)),
        dataclasses.replace(base, agent=SeesAll()),
        dataclasses.replace(base, env=WindyWalk(scenario="ood-fast")),
        dataclasses.replace(base, env=Walk()),
        dataclasses.replace(base, episodes=9),
        dataclasses.replace(base, seed=2),
        dataclasses.replace(base, first=8),
    ]
    assert len({job.digest for job in [base, *changed]}) == len(changed) + 1
    assert dataclasses.replace(base).digest == base.digest
    monkeypatch.setattr(jobs, "_sources", lambda *modules: "other physics")
    assert dataclasses.replace(base).digest != base.digest


def test_the_key_holds_the_task_that_a_task_wraps_but_not_the_list_of_tasks(monkeypatch):
    assert jobs._sources("qkd_gym.registration") == jobs._sources()
    read = []
    monkeypatch.setattr(jobs, "_sources", lambda *modules: read.append(modules) or "sources")
    plain = Job(Meet(), "passive", PassiveAgent.of(Meet()), 8, seed=1).digest
    joint = Centralised(Meet())
    assert Job(joint, "passive", PassiveAgent.of(joint), 8, seed=1).digest != plain
    assert any(set(modules) >= {"tests.toys", "qkd_gym.envs.centralised"} for modules in read)


def test_fingerprints_follow_arrays_and_sources(tmp_path, monkeypatch):
    assert fingerprint(LinearPolicy(gain=np.float32(1))) == fingerprint(LinearPolicy(gain=np.float32(1)))
    assert fingerprint(LinearPolicy(gain=np.float32(1))) != fingerprint(LinearPolicy(gain=np.float32(2)))
    # A module, a module that it imports, and a data file beside it: a change of any is seen.
    package = tmp_path / "agents_of_a_test" / "rules"
    package.mkdir(parents=True)
    (package / "helper.py").write_text("X = 1\n")
    (package / "table.npy").write_bytes(b"1")
    (package / "rule.py").write_text(
        "from agents_of_a_test.rules.helper import X\n"
        "from tests.evaluation.test_runner import Steer\n"
        "class Rule(Steer):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(jobs, "_OURS", ("agents_of_a_test",))
    monkeypatch.setattr(jobs, "_DATA", ("agents_of_a_test",))
    from agents_of_a_test.rules.rule import Rule

    seen = []
    for path, text in (("rule.py", "# more\n"), ("helper.py", "X = 2\n"), ("table.npy", "2"), ("rule.py", "\n")):
        jobs._sources.cache_clear()
        seen.append(fingerprint(Rule()))
        with (package / path).open("a") as file:
            file.write(text)
    jobs._sources.cache_clear()
    assert len({*seen, fingerprint(Rule())}) == 5


def test_stretches_join_to_the_whole():
    parts = [Job(ENV, "firm", Steer(gain=4.0), 8, seed=1, first=first).run() for first in (0, 8)]
    whole = evaluate(ENV, Steer(gain=4.0), 16, seed=1)
    joined = merge(parts)
    np.testing.assert_allclose(joined.returns, whole.returns, rtol=1e-6)
    np.testing.assert_allclose(joined.sums["distance"], whole.sums["distance"], rtol=1e-6)


@pytest.mark.parametrize("most", [32, 16])
def test_a_proven_bound_takes_the_place_of_the_oracles(toy_world, monkeypatch, most):
    """Where the bound is of fewer episodes, so are all anchors."""
    bound = np.linspace(6.5, 7.0, most)
    proof = types.SimpleNamespace(bounds=lambda env, seed, episodes: np.stack([bound[:episodes]] * 2, axis=1))
    monkeypatch.setitem(sys.modules, "a_proof", proof)
    monkeypatch.setitem(reference.BOUNDS, "WindyWalk", reference.Bound("a proof", "a_proof", most))
    monkeypatch.setitem(reference.ZERO, "WindyWalk", "gentle")
    assert reference.main(["--file", str(toy_world), "--scenarios", "training"]) == 0
    frozen = json.loads(toy_world.read_text())["tasks"]["qkd/WindyWalk-v0"]["scenarios"]["training"]
    assert frozen["zero"]["agent"] == "gentle" and frozen["practice"]["agent"] == "firm"
    assert frozen["one"]["agent"] == "a proof" and frozen["one"]["returns"] == scores.rounded(bound).tolist()
    assert {len(frozen[anchor]["returns"]) for anchor in ("zero", "practice", "one")} == {most}


def test_leaderboard_and_reference(toy_world, tmp_path, monkeypatch, capsys):
    """Killed and resumed; without and with a scale."""
    out = tmp_path / "out"
    played = []

    def count(env, agent, *a, **k):
        if len(played) == 2 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise KeyboardInterrupt
        played.append(agent)
        return evaluate(env, agent, *a, **k)

    monkeypatch.setattr(jobs, "evaluate", count)
    assert leaderboard.main(["--out", str(out)]) == 130
    assert leaderboard.main(["--out", str(out)]) == 0
    assert len(played) == len(AGENTS)
    capsys.readouterr()
    lines = json.loads((out / "results.json").read_text())["tasks"]["qkd/WindyWalk-v0"]["training"]
    assert lines["reference"] is None and all(line["score"] is None for line in lines["entries"])

    assert reference.main(["--file", str(toy_world), "--episodes", "64"]) == 0
    frozen = json.loads(toy_world.read_text())["tasks"]["qkd/WindyWalk-v0"]["scenarios"]
    assert set(frozen) == {"training", "ood-fast"}
    assert [frozen["training"][anchor]["agent"] for anchor in ("zero", "practice", "one")] == [
        "passive",
        "firm",
        "seer",
    ]
    assert "ceiling" not in frozen["training"]

    count_before = len(played)
    assert leaderboard.main(["--out", str(out), "--protocol", "quick"]) == 0
    assert len(played) == count_before
    text = capsys.readouterr().out
    assert "line to beat: firm" in text and "0 = passive" in text
    entries = json.loads((out / "results.json").read_text())["tasks"]["qkd/WindyWalk-v0"]["training"]["entries"]
    assert [entry["role"] for entry in entries] == ["random", "passive", "practice", "practice", "oracle"]
    by_name = {entry["name"]: entry for entry in entries}
    assert (by_name["firm"]["rank"], by_name["seer"]["rank"]) == (1, None)
    # Of the 64 frozen episodes the quick protocol plays 32: on these, nobody and the oracle are the ends of the scale.
    ends = [by_name[name]["score"] for name in ("passive", "seer")]
    assert [list(end.values()) for end in ends] == [[0.0] * 3, [1.0] * 3]
    zero, one, firm = (
        evaluate(ENV, AGENTS[name], 32, seed=7001).returns.mean() for name in ("passive", "seer", "firm")
    )
    np.testing.assert_allclose(by_name["firm"]["score"]["value"], (firm - zero) / (one - zero), rtol=1e-4)
    assert frozen["training"]["zero"]["episodes"] == len(frozen["training"]["zero"]["returns"]) == 64
    scale = json.loads((out / "results.json").read_text())["tasks"]["qkd/WindyWalk-v0"]["training"]["reference"]
    assert scale["zero"]["episodes"] == 32 and "returns" not in scale["zero"]
    np.testing.assert_allclose([scale["zero"]["mean"], scale["one"]["mean"]], [zero, one], rtol=1e-4)
    assert (out / "leaderboard.png").stat().st_size > 5000


def test_two_tasks_are_played_at_a_time_and_a_stop_stops_both(toy_world, monkeypatch):
    """Both first evaluations wait for each other; then one is stopped, and its neighbour ends the one it is at."""
    together, started = threading.Barrier(2, timeout=60), []

    def meet(env, *a, **k):
        started.append(env.name)
        if started.count(env.name) == 1:
            together.wait()
        if env.name == "Second":
            raise KeyboardInterrupt
        time.sleep(0.5)
        return evaluate(env, *a, **k)

    class Second(WindyWalk):
        name = "Second"

    monkeypatch.setattr(jobs, "evaluate", meet)
    with pytest.raises(KeyboardInterrupt):
        leaderboard.run([ENV, Second()], PROTOCOLS["quick"], Console(file=io.StringIO()))
    assert sorted(started) == ["Second", "WindyWalk"]


def test_unknown_tasks_are_refused(capsys):
    assert leaderboard.main(["--tasks", "Nothing"]) == 2
    assert "The tasks are" in capsys.readouterr().err
    assert reference.main(["--tasks", "Nothing"]) == 2


def test_training_seeds_are_one_entry(toy_world):
    spec = PolicySpec.for_env(ENV)
    played = [Played("passive", AGENTS["passive"], evaluate(ENV, AGENTS["passive"], 16))]
    for seed in range(5):
        policy = LearnedPolicy(
            weights=random_weights(spec, seed), spec=dataclasses.replace(spec, name=f"net-seed{seed}")
        )
        played.append(Played(f"net_{seed}", policy, evaluate(ENV, policy, 16)))
    board = make_board(ENV, played)
    assert [(entry.name, entry.seeds) for entry in board.entries] == [("passive", 0), ("net", 5)]
    net = board.entries[1]
    means = [one.results.returns.mean() for one in played[1:]]
    assert net.mean_return.value == pytest.approx(np.mean(means))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table.render(board))
    assert "net (5 seeds)" in console.export_text()


def test_registry(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "PRETRAINED", tmp_path)
    spec = PolicySpec.for_env(Walk())
    save_policy(tmp_path / "linear.safetensors", spec, random_weights(spec))
    (tmp_path / "broken.safetensors").write_bytes(b"junk")
    agents = registry.agents_for(Walk())
    assert [(name, agent.role) for name, agent in agents.items()] == [
        ("random", "random"),
        ("passive", "passive"),
        ("linear", "learned"),
    ]
    assert "left out" in capsys.readouterr().err
    assert "linear" not in registry.agents_for(ENV)  # made for another task
