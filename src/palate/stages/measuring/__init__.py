"""Stages that train nothing and measure: the report card, and what the prompts of reinforcement cover.

Their arithmetic is in `evals/`. The win rate by itself (`evaluate.py`) stands beside the training stages that use it.
"""
