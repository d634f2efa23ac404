"""Repeats: what `palate repeat` runs. The same recipes with seed after seed, and what comes of which randomness.

How recipes become parts and draws, what their reports say, and the statistics of it; the stages themselves know nothing
of it and live in `stages/`.
"""
