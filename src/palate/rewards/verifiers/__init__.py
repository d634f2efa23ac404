"""Rewards that check instead of guess: `verify(prompt, response)` gives a score in [0, 1] and the reason for it.

One file for each kind; what is known about a prompt (its answer, its tests) comes with the prompt, as a tag. How a
verdict is weighed against other rewards is in `rewards/mix.py`. Nothing here may ask a model.
"""
