"""What half precision costs in accuracy, on the real model: bf16 products beside fp32 ones.

The same prompts are answered in both. Measured before any update, so that all of it is rounding: how far the
log-probabilities of the drawn tokens lie apart in sampling and in training, for passes of several sizes; how far those
of bf16 lie from fp32's on the same tokens; and the angle between the gradients of a policy loss with random advantages.

    python benchmarks/half_precision.py --prompts 32
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from palate.demo.prompts import demo_prompts
from palate.lm.batch import Sequences, per_token
from palate.lm.kernels.products import multiplies_bf16
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import load_language_model
from palate.objectives.losses import policy_loss
from palate.recipe import Sampling
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine
from palate.stages.common import deterministic
from palate.stages.reinforcement.watching import check_on_policy

CLIP_RANGE = 0.2
BARS = {"sampler/gap": 0.01, "sampler/kl_k3": 0.01, "sampler/outside_clip_range": 1e-12}
"""What bf16 must stay below."""
COSINE = 0.999
"""What the angle between the gradients must stay above."""


def main() -> None:
    """Measure, print a table, and end with status 1 if a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--responses", type=int, default=4, help="of each prompt")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--frozen-layers", type=int, default=20)
    parser.add_argument("--microbatch-tokens", type=int, nargs="*", default=[64, 512, 4096])
    arguments = parser.parse_args()
    deterministic()
    sampling = Sampling(max_new_tokens=arguments.max_new_tokens)
    prompts = demo_prompts(held_out=False)[: arguments.prompts]

    has = "with" if multiplies_bf16("cuda" if torch.cuda.is_available() else "cpu") else "without"
    print(f"{platform.processor() or platform.machine()} {has} bf16, torch {torch.__version__}, {arguments.model}\n")
    print("| products | microbatch | mean gap | largest | k3 a response | outside the clip range | s |")
    print("|---|---|---|---|---|---|---|")
    fixed: Rollout | None = None  # fp32's responses: what both precisions are asked about
    found: dict[str, tuple[Tensor, Tensor]] = {}
    met = True
    for precision in ("fp32", "bf16"):
        loaded = load_language_model(arguments.model, precision=precision)
        loaded.model.freeze(arguments.frozen_layers)
        start = time.perf_counter()
        rollout = LocalEngine(loaded.model, loaded.chat).generate(
            prompts, sampling, num_responses=arguments.responses, key=("half precision",)
        )
        print(f"| {precision} | sampling | | | | | {time.perf_counter() - start:.1f} |")
        fixed = fixed or rollout
        mask = rollout.sequences.mask
        for size in arguments.microbatch_tokens:
            start = time.perf_counter()
            gap = trained(loaded.model, rollout.sequences, rollout.temperature, size) - rollout.logprobs
            told = check_on_policy([gap[mask]], len(mask), clip_range=CLIP_RANGE, step=0)
            met = met and all(told[name] < bar for name, bar in BARS.items())
            print(
                f"| {precision} | {size} | {told['sampler/gap']:.6f} | {told['sampler/gap_max']:.5f} | "
                f"{told['sampler/kl_k3']:.6f} | {told['sampler/outside_clip_range']:.4%} | "
                f"{time.perf_counter() - start:.1f} |",
                flush=True,
            )
        size = arguments.microbatch_tokens[-1]
        logprobs = trained(loaded.model, fixed.sequences, fixed.temperature, size)[fixed.sequences.mask]
        found[precision] = logprobs, gradient(loaded.model, fixed, size)
    assert fixed is not None
    (full, full_gradient), (half, half_gradient) = found["fp32"], found["bf16"]
    cosine = float(F.cosine_similarity(full_gradient, half_gradient, dim=0))
    tokens = int(fixed.sequences.mask.sum())
    print(f"\n{len(fixed.texts)} responses, {tokens} tokens. bf16 against fp32 on the same ones:")
    print(f"log-probabilities {float((full - half).abs().mean()):.5f} nats a token apart,")
    print(f"gradient's cosine {cosine:.6f}, its norm times {float(half_gradient.norm() / full_gradient.norm()):.4f}.")
    said = f"{BARS}, cosine {COSINE}."
    if not (met and cosine > COSINE):
        raise SystemExit(f"The bars are NOT met: {said}")
    print(f"The bars are met: {said}")


@torch.no_grad()
def trained(model: LanguageModel, sequences: Sequences, temperature: float, max_tokens: int) -> Tensor:
    """[B, T] log-probabilities by the code that trains, the frozen layers computed once as there."""
    trunk = model.trunk(sequences)
    return per_token(
        sequences, max_tokens, lambda part: model.logprobs(part, temperature=temperature, trunk=trunk)
    ).cpu()


def gradient(model: LanguageModel, rollout: Rollout, max_tokens: int) -> Tensor:
    """All of a policy loss's gradient as one vector, fp64; the advantages are +1 and -1 by turns."""
    sequences, trunk = rollout.sequences, model.trunk(rollout.sequences)
    for part in sequences.microbatches(max_tokens):
        logprobs = model.logprobs(part, temperature=rollout.temperature, trunk=trunk)
        advantages = (1.0 - 2.0 * (part.rows % 2))[:, None].expand(part.mask.shape)
        loss, _ = policy_loss(
            logprobs,
            logprobs.detach(),
            advantages,
            part.mask,
            clip_range=CLIP_RANGE,
            denominator=int(sequences.mask.sum()),
        )
        loss.backward()
    return torch.cat([p.grad.flatten().double().cpu() for p in model.parameters() if p.grad is not None])


if __name__ == "__main__":
    main()
