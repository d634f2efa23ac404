"""Preferences out of what people left behind: votes, thumbs, ranks in trees, marks on prompts, known answers.

Every ranking made here says in its `source` where it comes from, and everything that makes none is counted with its
reason. Rows are read in `corpus`; judgements that people gave in the studio are no matter of this room.
"""
