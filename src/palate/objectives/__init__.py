"""The mathematics of RLHF as pure functions: tensors in, tensors out.

No configuration, no modules, no files, and nothing imported from the rest of Palate: a student can read each function
next to its paper. `losses` is what a step minimises, `pointwise` what ratings and flags add to it, `advantages` turns
rewards into what a policy learns from, `aggregation` makes one score of an ensemble's, `divergence` measures how far a
policy has moved, `preference` says which answer a labeler would choose,
`acquisition` (in numpy) what to ask labelers next.

Shapes: B sequences, T tokens, K candidates, V vocabulary. Every per-token tensor is [B, T] over prompt and response,
index t speaks about `tokens[:, t]`, masks are boolean, logarithms are natural (nats).
"""
