"""An agent in a Gymnasium environment that learns from comparisons of clips: the origin of the method.

Losses, advantages, agreement and disagreement are the language side's and are called from here. Nothing of a language
model lives here, and nothing that compares several runs (`experiments/controls.py`).
"""
