"""The whole loop on the embedded model: what `palate demo` runs, and its prompts; and on what real people said.

Only what is particular to the demonstrations; the stages they string together live in `stages/`.
"""
