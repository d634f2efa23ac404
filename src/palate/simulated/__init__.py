"""Simulated labelers and the hidden tastes they share, for demonstrations, tests and research.

They are no people: what real people say lives in `feedback/`.
"""
