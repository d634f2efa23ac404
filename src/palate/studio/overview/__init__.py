"""Pages that span the loop: the first steps, the dashboard, the arena of two models.

They may use all other rooms, and no other room uses them.
"""
