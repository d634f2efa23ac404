"""Where models come from: a path, a name, or one of the two that need no network; and how they are written back.

What a model computes is in the rooms beside; nothing here is called after loading, but for saving.
"""
