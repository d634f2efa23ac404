"""What arithmetic is done with: matrix products and attention, in the precision and the layout that suit a device.

Layers, models and layouts of rows are not known here; they are what calls these.
"""
