"""One file, one stage, its whole loop visible: each has `train(recipe, run)`.

What several stages share is in `common`, `rollouts` and `comparisons`; the mathematics is in `objectives/`, and nothing
here knows the web app or the people behind the data.
"""
