"""Work for people: material in batches, a queue that hands it out, and the log of what they judged.

What the judgements add up to is in `statistics/`, who may give them in `labelers/`.
"""
