"""The people who label: what they are told, how they are tested and reviewed, and what an admin may change about them.

Accounts are in `store/`, what all judgements together say in `statistics/`.
"""
