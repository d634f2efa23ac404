"""Many processes, on one machine or many, as one `World`.

What is divided and how it is put together again is decided by the rooms below; no stage is imported here.
"""
