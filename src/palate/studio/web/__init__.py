"""What every page stands on: who may do what, how pages and charts are made, the workspace, coming in and going out.

Nothing here knows what the other rooms do.
"""
