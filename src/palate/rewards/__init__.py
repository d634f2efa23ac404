"""Where a number for a response comes from: a learned model, a rule, a check, a length, or a weighted sum.

How a reward model is trained is in `stages/reward.py`; what a reward does to a policy is in `objectives/`.
"""
