"""The figures by which a task is released: every agent on every scenario, paired."""
