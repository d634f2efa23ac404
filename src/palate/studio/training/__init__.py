"""Jobs and runs: recipes an admin may start, processes that outlive the app, and what becomes of their results.

The stages themselves are in `palate.stages`; nothing is trained in the process that serves pages.
"""
