"""What the commands that take a recipe call (`palate NAME RECIPE.toml`), and what the help of the others says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Stage:
    """A command that takes a recipe: ``palate NAME recipes/EXAMPLE.toml``.

    Attributes:
        module, function: what it calls, with the recipe and the run.
        recipe: the class of its recipe.
        makes_policy: what comes out is a language model that answers, so that it can be compared with others.
        command: of the stage whose command takes its recipes too; a recipe says by its `stage` which of them it is for.
        divides: what it computes can be divided among several processes.
    """

    name: str
    help: str
    text: str
    module: str
    recipe: str
    example: str
    function: str = "train"
    makes_policy: bool = True
    command: str = ""
    divides: bool = True


STAGES = (
    Stage(
        "pretrain",
        "make a model out of text, or go on with one",
        "Pretraining: a model learns to complete documents, token by token. A new one gets a tokenizer trained on\n"
        "them and a shape from 1 million to 1 billion weights. Held-out documents say how well it foretells text.",
        "palate.stages.pretrain",
        "PretrainRecipe",
        "pretrain",
        makes_policy=False,
    ),
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
        "judge",
        "let a model compare answers by written principles",
        "AI feedback: a model, here or behind an OpenAI-compatible endpoint, compares every two answers to a prompt\n"
        "by the principles of a constitution, in both orders. Writes rankings.jsonl, marked as AI's.",
        "palate.stages.ai_feedback.judge",
        "JudgeRecipe",
        "judge",
        function="judge",
        makes_policy=False,
        divides=False,
    ),
    Stage(
        "revise",
        "let a model criticise and revise its own answers",
        "AI feedback: a model answers, criticises its answer by a principle of a constitution and writes it anew.\n"
        "Writes demonstrations.jsonl, marked as AI's, with every draft and critique.",
        "palate.stages.ai_feedback.revise",
        "ReviseRecipe",
        "revise",
        function="revise",
        makes_policy=False,
        divides=False,
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
        "did it help: a win rate, or a report card",
        "A win rate: both models answer held-out prompts, and a judge that training never saw compares the answers.\n"
        'A report card (stage = "card"): questions, texts and prompts of many kinds, what got better, what got worse.',
        "palate.stages.evaluate",
        "WinRateRecipe",
        "win_rate",
        function="evaluate",
        makes_policy=False,
    ),
    Stage(
        "card",
        "what got better, what got worse, how sure",
        "Two models on the same questions, texts and prompts, in pairs and corrected for their number.",
        "palate.stages.measuring.card",
        "CardRecipe",
        "card",
        function="report_card",
        makes_policy=False,
        command="eval",
        divides=False,
    ),
)


DEMOS = {
    "everyday": ("palate.demo.loop", "demo", "runs/demo"),
    "people": ("palate.demo.real_people", "demo_people", "runs/people"),
    "text": ("palate.demo.from_text_page", "from_text", "runs/text"),
}
"""Of each demonstration module, function, and where it goes."""


def stage_meant(command: str, tree: Mapping[str, Any]) -> Stage:
    """The stage that a recipe for a command is for: the one that it names, or else the command's own."""
    named = (each for each in STAGES if each.command == command and each.name == tree.get("stage"))
    return next(named, next(each for each in STAGES if each.name == command))


def stage_of(tree: Mapping[str, Any], path: Path, stage: str | None = None) -> Stage:
    """The stage that a recipe is for: the one that is named, or that it names, or that its file is called after.

    Raises:
        RecipeError: it is not known.
    """
    known = {each.name.replace("-", "_"): each for each in STAGES}
    called = [key for key in known if path.stem.replace("-", "_").startswith(key)]
    key = (stage or str(tree.get("stage", ""))).replace("-", "_") or max(called, key=len, default="")
    if key not in known:
        said = f"{stage or tree.get('stage')!r} is no stage" if key else "it does not say of which stage it is"
        raise RecipeError(f'{path}: {said}; write stage = "..." into it, one of {", ".join(known)}')
    return known[key]


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

DATA_FILTER = """\
Leaves out documents that are not worth learning from: by Gopher's rules (too short, lists, symbols, no stop words,
lines and words that repeat), and those that an earlier one says already, or nearly. The rest is written as
{"text": ...}, one a line; a page says how many were dropped for what reason, with examples.

example:
  palate data filter pages.jsonl.gz --out kept.jsonl --set min_words=20"""

DATA_MINE = """\
Makes preferences out of what people left behind, and of what a model knows. KIND says of what. Every ranking says in
its source where it comes from; the reward model's report has its accuracy by source. What nothing is made of is
counted with its reason, and a page beside the output shows examples.

examples:
  palate data mine forum answers.jsonl --out pairs.jsonl --set min_gap=5 max_longer_share=0.5
  palate data mine thumbs thumbs.jsonl --out pairs.jsonl"""

DATA_ABSTENTION = """\
Says how often a model says that it does not know, where nobody can and where somebody does: its responses to questions,
as `palate sample` writes them, beside the known answers. With --before, what another model said to the same questions,
and what changed. A page shows the figures with their intervals, and responses to read.

example:
  palate data abstention runs/after/candidates.jsonl --before runs/before/candidates.jsonl --out runs/abstention \\
      --set answers=questions-with-answers.jsonl"""

INTRODUCTION = """\
Teach a language model a group of people's taste.

See the whole loop on one small model, with nothing to prepare:

  palate demo

Or walk it with data of your own, a recipe for each step:

  palate data check pairs.jsonl                what is in it, and what cannot be used
  palate sft recipes/sft.toml                  show the model how to answer
  palate sample recipes/sample.toml            let it answer, for people to rank
  palate reward recipes/reward.toml            learn from the rankings what people prefer
  palate ppo recipes/ppo.toml                  improve the model on that
  palate eval recipes/win_rate.toml            would people now prefer it?
  palate runs                                  what was run, and how far it got

Or with people, in the browser:

  palate init taste                            a workspace for their prompts, judgements and models
  palate studio --workspace taste              label, train, measure, chat
"""

RUN_DIRECTORY = """\
Everything goes into a run directory (--out): the resolved recipe, metrics.jsonl, lineage.json, report.json and what was
made. Ctrl-C finishes the step at hand and writes a checkpoint; the same command with --resume goes on from there, also
after the process was killed."""

DEMO = """\
Everything on one small language model, on a laptop and without a network: it answers, simulated labelers with a taste
the training never sees rank the answers, a reward model learns from them, the model is improved on that reward, and the
report says whether those labelers would now prefer it.

`palate demo people` does it on what real people said, which it fetches (`palate data get`). A reward model learns which
of two arguments convinces, and the model learns from it to argue for sides that nobody judged; a second reward model,
from other topics, says whether it does. And of 124 people: are those whom a reward model never met foretold as well?

`palate demo text --text PATH` starts from plain text: it filters it, trains a tokenizer and a new model of 5 million
weights on it, teaches that to go on with a sentence, and then as above. No model in it comes from elsewhere."""

ROUNDS = """\
In each round the policy answers fresh prompts; simulated labelers, people, or a model by a constitution judge the
answers; a reward model learns from all judgements so far, and the policy goes on learning against it from where it was.
Each policy is measured against the first model on held-out prompts, beside as many steps without new labels.

Where people judge, the command ends when it waits for them and says what to do; given again, it goes on."""

COMPARE = """\
Runs every recipe with every seed, measures all of them alike and says which is best at equal KL and at equal cost, with
best of n on the same axes, in one report. Recipes of any stage that ends in a policy will do, and of best-of-n. The
recipe of --eval is one of `palate eval`; each policy takes the place of its model.

NAME=FILE gives a recipe a name, so that one file can be there twice; --set KEY=VALUE changes all of them,
--set NAME:KEY=VALUE one, --set eval:KEY=VALUE what they are measured by. {seed} in a text of a recipe is the run's."""

REPEAT = """\
Runs a recipe of any stage, of rounds, an agent or a demonstration, or several that follow each other, with seed after
seed, and says of every figure of their reports how far it varies between seeds, beside its interval within one run.
With --apart it finds what part of that is the order of the data, what is drawn to begin with, responses, labelers, or
measuring: each run is done again with that one source drawn anew.

A recipe names what an earlier one made as {NAME}, its directory: --set "reward:model={sft}". --set KEY=VALUE changes
all recipes, --set NAME:KEY=VALUE one; {seed} in a text of a recipe is the run's."""

FRONTIER = """\
PPO, REINFORCE and DPO over several seeds, each with a demonstration of its own: demonstrations, labelers, reward model.
Then as `palate compare`."""

OVEROPTIMIZE = """\
What becomes of the true reward while a learned one is optimised: a reward model learns a hidden taste from few labels,
a quarter of them wrong; best of n and REINFORCE, with and without a KL penalty, then go as far as they can. The report
has the true reward against the root of the KL, the forms of Gao et al. 2022 fitted to it, and where it is highest."""

COVERAGE = """\
Which prompts of reinforcement lie outside what the reward model was taught on, and which parts of that does none of
them reach? By the reward model's own hidden states: a share each way, a map, the twenty furthest prompts, the parts
that are asked about least, and, with rankings that it did not learn from, whether it errs more with distance."""

LABELERS = """\
Whom do the labels of a reward model's recipe speak for? Labelers are dealt into folds, and each judgement is foretold
by rewards that learned from its labeler and by one that never met them, none of which has seen what it is about. Beside
it stand the labelers' own agreement, weights by skill, the majority, and a control with the names dealt out anew.

Of the recipe count data, model, frozen_layers, chat_template, precision, max_length, max_left_out, microbatch_tokens,
seed, and the tag of the holdout: prompts with one value of it belong together. Rewards are linear on the frozen layers,
whose output is computed once; the rest of the recipe, about how a reward model is trained, does not matter here."""

CHOOSE = """\
How many labels does a reward model need, and which should be asked for first? From the judgements of a reward model's
recipe some are drawn, a reward is learned, the next are chosen, and so on: at random, where the reward is unsure, where
responses are new, and by both. The page has accuracy against labels, the gain over random with its interval, and
controls that should lose, draw, and win.

Of the recipe count data, model, frozen_layers, chat_template, precision, max_length, max_left_out, microbatch_tokens,
seed, and the tag of the holdout: prompts with one value of it belong together. Rewards are linear on the frozen layers,
whose output is computed once; the rest of the recipe, about how a reward model is trained, does not matter here."""

AGENT = """\
The method's origin: an agent in a Gymnasium environment learns by PPO what a teacher prefers when shown two clips of
what it did. Beside it run the same agent with the environment's own reward, and with answers by lot; one report has the
learning curves of all, over several seeds. Teachers are simulated, or people, for whom clips are drawn and who may take
their time. It needs `palate[gym]`."""

ENGINE = """\
Runs one vLLM server that draws responses for runs, and prints the lines that a recipe names it by. vLLM is installed
into an environment of its own first, once: for NVIDIA GPUs where there are some, else for processors.

The server asks for a token on every route and listens on this machine alone; PALATE_ENGINE_KEY, if it is set, is the
token. When vLLM dies it is started again, and whoever uses it gives it its weights. Ctrl-C ends it."""

INIT = """\
Makes a workspace: the directory in which a team's prompts, judgements, models and runs live, with a database (SQLite,
or PostgreSQL by URL) and recipes to start from."""

STUDIO = """\
Serves a workspace to browsers: people write and rank answers, see how far they agree, train the next model from what
they said and chat with it. The first start prints a link that makes the first admin; it works once."""

WORKER = """\
Runs what is started in the web app: sampling, training, scoring, measuring, one after the other. The web app does so
itself unless it is started with --no-jobs; a worker keeps them apart from it, in a container of its own for instance.
It has to see the workspace's directory and the web app's processes."""

BACKUP = """\
Writes a workspace into one file while people work in it: the database as it was at one moment, whichever kind it is,
and every file, runs and models among them. The file holds the workspace's secret and what people wrote."""

RESTORE = """\
Makes a workspace again from a backup, after each file was compared with its hash. With --database its rows go into
another database than before, of either kind: so a workspace moves from SQLite to PostgreSQL, or back."""

CLUSTER = """\
Runs a recipe in several processes on the machines of a Ray cluster, as many as its [cluster] says. Each is one that
torchrun could have started; Ray finds places for them and notices when one is gone. Then all are started again and go
on from the newest checkpoint. Engines that [cluster] asks for are started before them, and end with the run. Without a
cluster one of this machine alone is started, and ended afterwards.

All machines must see the same disk. With an http:// address the command is sent to a cluster's head as a Ray job."""
