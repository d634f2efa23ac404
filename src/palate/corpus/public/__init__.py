"""Data sets that others made public: a table of what they are and where their authors keep them, and fetching one.

Nothing of them is part of Palate, and nothing is fetched unless it is asked for. What is in a file, and how a row of it
becomes a record, is for the rest of `corpus`.
"""
