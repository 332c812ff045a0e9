"""Proximal policy optimisation with the environment and the learner in one compiled program."""
