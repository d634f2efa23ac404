"""What judgements add up to: agreement, and many verdicts made into one.

Mathematics on records and tables, read only: nothing here changes the log.
"""
