"""Stable-Baselines3 and sb3-contrib on the suite's tasks."""
