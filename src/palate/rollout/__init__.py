"""Text out of a model: the protocol in `engine.py`, our own engine in `local.py`, token by token in `stream.py`.

Scores and losses are not known here; what a model is lies in `lm/`.
"""
