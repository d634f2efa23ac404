"""Rounds: what `palate rounds` runs. Which prompts, who judges, what is trained in turn, and how each policy did.

Only what makes stages a loop; the stages themselves live in `stages/`, and the rounds of a team in the web app in
`feedback/store/` and `studio/training/`.
"""
