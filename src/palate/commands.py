"""What the commands that take a recipe call (`palate NAME RECIPE.toml`), and what the commands for data say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A command that takes a recipe: ``palate NAME recipes/EXAMPLE.toml``.

    Attributes:
        module, function: what it calls, with the recipe and the run.
        recipe: the class of its recipe.
        makes_policy: what comes out is a language model that answers, so that it can be compared with others.
    """

    name: str
    help: str
    text: str
    module: str
    recipe: str
    example: str
    function: str = "train"
    makes_policy: bool = True


STAGES = (
    Stage(
        "sft",
        "fine-tune on demonstrations",
        "Supervised fine-tuning: the model learns to answer as demonstrations do, the end of the answer included.",
        "palate.stages.sft",
        "SFTRecipe",
        "sft",
    ),
    Stage(
        "sample",
        "sample K responses per prompt, to be ranked",
        "Writes candidates.jsonl: every prompt with K responses and where each came from.",
        "palate.stages.sample",
        "SampleRecipe",
        "sample",
        function="write_candidates",
        makes_policy=False,
    ),
    Stage(
        "reward",
        "train a reward model on rankings",
        "A reward model learns from rankings which response people would prefer. Its accuracy is reported beside what\n"
        "choosing the longer response would reach.",
        "palate.stages.reward",
        "RewardRecipe",
        "reward",
        makes_policy=False,
    ),
    Stage(
        "ppo",
        "improve a model on its reward by PPO",
        "Proximal policy optimisation, as InstructGPT used it: with a value model, a KL penalty for every token and,\n"
        "if the recipe has [pretraining], the pretraining gradient mixed in.",
        "palate.stages.reinforcement.ppo",
        "PPORecipe",
        "ppo",
    ),
    Stage(
        "reinforce",
        "improve a model on its reward by REINFORCE (RLOO, GRPO, DAPO ...)",
        "REINFORCE and its descendants: the other responses to a prompt say what was to be expected, and there is no\n"
        "value model. As it comes it is RLOO; recipes/ has GRPO, Dr. GRPO, DAPO, GSPO and CISPO.",
        "palate.stages.reinforcement.reinforce",
        "ReinforceRecipe",
        "reinforce",
    ),
    Stage(
        "dpo",
        "train on preferences directly, without a reward model",
        "Direct preference optimisation: no reward model and no sampling, only pairs. By the loss of DPO or of IPO.",
        "palate.stages.dpo",
        "DPORecipe",
        "dpo",
    ),
    Stage(
        "kto",
        "train on thumbs directly, without a reward model",
        "Kahneman-Tversky optimisation: every thumb is about one response alone, and nothing is compared.",
        "palate.stages.kto",
        "KTORecipe",
        "kto",
    ),
    Stage(
        "online-dpo",
        "train on preferences between the policy's own responses, round by round",
        "On-policy DPO: the policy answers, a reward says which of its responses is better, and it learns from these\n"
        "pairs by the loss of DPO or IPO, round after round.",
        "palate.stages.own_samples.online_dpo",
        "OnlineDPORecipe",
        "online_dpo",
    ),
    Stage(
        "raft",
        "fine-tune on the best of the policy's own responses, round by round",
        "Reward-ranked fine-tuning: of K responses to each prompt the best is kept, and the policy learns to say it.",
        "palate.stages.own_samples.raft",
        "RAFTRecipe",
        "raft",
    ),
    Stage(
        "distill",
        "learn from a teacher, token by token, on the policy's own responses",
        "On-policy distillation: after every token of its own responses the policy is told what a teacher would have\n"
        "said next; of several teachers a reward chooses one for each prompt.",
        "palate.stages.own_samples.distill",
        "DistillRecipe",
        "distill",
    ),
    Stage(
        "best-of-n",
        "choose the best of n responses; nothing is trained",
        "Samples n responses to each prompt and keeps the one with the highest reward: what any training must beat.",
        "palate.stages.best_of_n",
        "BestOfNRecipe",
        "best_of_n",
        function="choose",
        makes_policy=False,
    ),
    Stage(
        "eval",
        "win rate of one model against another",
        "Both models answer held-out prompts and a judge that training never saw compares the answers. With intervals.",
        "palate.stages.evaluate",
        "WinRateRecipe",
        "win_rate",
        function="evaluate",
        makes_policy=False,
    ),
)

DATA = """\
Recipes read these formats themselves; look at a file before you train on it, convert it for other tools, and get public
data sets to begin with."""

DATA_CHECK = """\
Reads files to their end and says what is in them: how many records of which kind, what cannot be used and why, and how
often the longer response is the preferred one. Status 2 if there are malformed rows.

With --model it shows the first records as that model will see them, token by token, and what of them is learned; how
many records are too long or do not suit its chat template; and what differs from the model's own rendering.

examples:
  palate data check pairs.csv --format pairs --field prompt=question --field a=first --field b=second
  palate data check chats.jsonl --model smollm2-135m"""

DATA_IMPORT = """\
Writes the records of files as Palate's own, one JSON object per line. What repeats is counted and left out, but for
judgements that nobody signed: each is a vote. A column that matters and is not read stops it; decide with --ignore,
--tag, --field or --format.

example:
  palate data import hh.jsonl.gz --out rankings.jsonl"""

DATA_EXPORT = """\
Writes records in another tool's format; what the format cannot say is counted and shown.

example:
  palate data export rankings.jsonl --format trl-explicit --out pairs.jsonl"""

DATA_GET = """\
Fetches public data sets from where their authors keep them into data/NAME, which recipes name; without a NAME it lists
them with licence, size and source. A file is pinned by commit and SHA-256 and is there whole or not at all; a broken
download goes on with the same command. PALATE_DATA_MIRROR, a folder or an address, takes the place of the authors'
repositories."""
