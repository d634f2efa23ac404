"""One file, one stage, its whole loop visible; `palate/commands.py` says which function of it a command calls.

What several stages share is in `common` and `comparisons`; reinforcement learning has a room of its own. The
mathematics is in `objectives/`, and nothing here knows the web app or the people behind the data.
"""
