"""Protocols put to a model: likelihoods of continuations and documents, responses, and answers that are kept.

Nothing here knows what an answer means: `evals/protocols/` says what is asked and how it is scored.
"""
