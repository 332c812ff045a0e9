"""What cannot be done is refused before anything is played: one message that names what is allowed, and status 2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import admission, books, key_routing, node_switching, resource_allocation
from benchmarks.cost import print_costs, random_step
from tests.toys import Meet


@pytest.fixture(autouse=True)
def nothing_is_played(monkeypatch):
    def played(*args, **kwargs):
        pytest.fail("something was played")

    monkeypatch.setattr("benchmarks.leaderboard.jobs.evaluate", played)
    monkeypatch.setattr("benchmarks.bounds._start", played)
    monkeypatch.setattr("benchmarks.cost.cost_of", played)
    monkeypatch.setattr(books, "play", played)


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (key_routing, "--scenarios training nowhere", "no scenario 'nowhere'; it has: training, easy"),
        (key_routing, "--agents prices nobody", "no agent nobody; it has: random, passive, shortest_path"),
        (key_routing, "--topology atlantis", "'atlantis'; there are:"),
        (key_routing, "--speed ring6 atlantis", "'atlantis'; there are:"),
        (key_routing, "--topology metro2", "at least 3 nodes"),
        (key_routing, "--paths 0", "--paths: '0' must be a whole number of at least 1"),
        (key_routing, "--paths 51", "num_paths = 51 must be a whole number from 1 to 50"),
        (key_routing, "--episodes 0", "--episodes: '0' must be"),
        (node_switching, "--scenarios nowhere", "no scenario 'nowhere'; it has: training"),
        (node_switching, "--agents nobody", "no agent nobody; it has: random, passive"),
        (node_switching, "--ports 0", "--ports: '0' must be"),
        (node_switching, "--ports 17", "num_transmitters = 17 must be a whole number from 1 to 16"),
        (node_switching, "--speed 4 17", "num_transmitters = 17 must be"),
        (node_switching, "--num-envs -3", "--num-envs: '-3' must be"),
        (resource_allocation, "--scenarios nowhere", "no scenario 'nowhere'; it has: training"),
        (resource_allocation, "--small --agents nobody", "no agent nobody; it has: random, passive"),
        (resource_allocation, "--episodes many", "--episodes: 'many' must be a whole number"),
        (books, "--steps 0", "--steps: '0' must be"),
        (books, "--seed -1", "--seed: '-1' must be"),
        (admission, "--tasks Nothing", "The tasks are"),
        (admission, "--tasks KeyRouting --scenarios nowhere", "no scenario 'nowhere'; it has: training"),
        (admission, "--tasks KeyRouting --agents nobody", "no agent nobody; it has: random"),
        (admission, "--episodes 0", "--episodes: '0' must be"),
    ],
)
def test_what_cannot_be_done_is_refused(command, arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments.split())
    out, error = capsys.readouterr()
    assert stopped.value.code == 2 and not out
    assert said in error.splitlines()[-1], error


def test_random_steps_are_legal_and_reach_everything():
    env = Meet()
    _, episodes = env.reset_batch(jax.random.split(jax.random.key(0), 256))
    obs, after = jax.jit(lambda key, episodes: random_step(env, key, episodes))(jax.random.key(1), episodes)
    moved = (after.state.positions - episodes.state.positions + 1) % 5
    assert obs.shape == (256, 3, 5) and set(np.unique(moved)) == {0, 1, 2}
    assert not jnp.any((moved == 0) & (episodes.state.positions == 0))


def test_costs_are_printed(monkeypatch, capsys):
    monkeypatch.undo()
    (cost,) = print_costs([("a ring", Meet(), 8)])
    assert cost.us_per_step > 0 and cost.compile_s > 0
    assert cost.observation_kb == 3 * 5 * 4 / 1e3 and cost.held_kb > 3 * 4 / 1e3
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3 and table[2].startswith("| a ring | 3 | 8 | ")
    assert all(line.count("|") == table[0].count("|") for line in table)
