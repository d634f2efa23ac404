"""People and what they say: one database, the work they are given, what it says about them, and the way out of it.

Nothing here trains or serves pages; simulated labelers are no people and live in `simulated/`.
"""
