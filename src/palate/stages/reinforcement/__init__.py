"""Reinforcement learning from a reward: sample, score, compare with the reference, advantages, update.

One command a file (`ppo`, `reinforce`), and the step that they share. Where rewards come from is in `rewards/`, the
mathematics in `objectives/`.
"""
