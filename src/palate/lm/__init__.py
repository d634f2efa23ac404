"""A language model and what it needs: tokens, templates, weights, heads, log-probabilities.

Start with `batch.py` (what flows), then `decoder.py` (the network) and `model.py` (what the stages call).
"""
