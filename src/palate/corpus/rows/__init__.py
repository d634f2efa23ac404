"""A row and what is in it: fields that know whether they were read, values, turns, marks, verdicts.

No format is known here. A row that gives no record says why (`rejections`).
"""
