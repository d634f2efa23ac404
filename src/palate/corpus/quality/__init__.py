"""Raw text that is worth learning from: what is wrong with a document, which one it repeats, and a report of it all.

Rows are read in `corpus`; what a person said about a response is no matter of this room.
"""
