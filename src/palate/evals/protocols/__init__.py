"""What a report card asks of a model, and how its answers become numbers: one file for each kind of question.

Pure: files in, items out; answers in, scores out. No model is asked here (`evals/asking/`), and nothing is compared
(`evals/card/`).
"""
