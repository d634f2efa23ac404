"""Feedback from a model instead of people, by written principles: it compares answers (`judge`), or criticises and
revises its own (`revise`).

How a model is asked is in `rewards/judges`. What is made here is marked as AI's wherever it goes; who learns from it,
and how far it agrees with people, is other rooms' business and theirs to say.
"""
