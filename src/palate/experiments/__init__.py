"""Several runs compared: whole experiments made of stages, over methods and seeds.

What runs one stage belongs in `stages/`, what measures one result in `evals/`.
"""
