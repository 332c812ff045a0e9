"""`qkd/KeyRouting-v0` for PettingZoo."""

from qkd_gym.pettingzoo import faces_of

parallel_env, env, raw_env = faces_of("qkd/KeyRouting-v0")
