"""Is the physics right? Reference tables, recomputed; and how well known settings do."""
