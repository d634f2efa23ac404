"""What a team's own labels say about labelling: which to ask for first, and whom they speak for.

Linear rewards on features of a frozen trunk, hundreds of them. How a reward model is trained is in `stages/reward.py`.
"""
