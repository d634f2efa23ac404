"""A row and what is in it: fields, values, turns, marks, verdicts."""
