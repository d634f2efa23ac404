"""One file, one stage, its whole loop visible: each has `train(recipe, run)`."""
