"""Learning from the policy's own samples without a policy gradient: pairs (`online_dpo`), the best (`raft`), a teacher
(`distill`).

Each is a loop that is visible whole. What they share with reinforcement learning (who takes part, prompts of a step,
scoring, watching) comes from `stages/reinforcement`, which knows nothing of this room.
"""
