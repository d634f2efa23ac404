"""The whole loop on the embedded model: what `palate demo` runs, and its prompts.

Only what is particular to the demonstration; the stages it strings together live in `stages/`.
"""
