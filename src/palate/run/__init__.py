"""One run: its directory, its checkpoints, what it logs, where it came from, and how it is stopped and resumed.

Nothing here knows what a stage does; a stage is handed a `Run` and asks it to log, to save and whether to go on.
"""
