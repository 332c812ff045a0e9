"""Node switching for PettingZoo: `parallel_env(**options)`, `env(**options)`, `raw_env(**options)`."""

from qkd_gym.pettingzoo import faces_of

parallel_env, env, raw_env = faces_of("qkd/NodeSwitching-v0")
