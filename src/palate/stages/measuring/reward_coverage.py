"""What a reward model learned from beside what reinforcement asks: which prompts are outside, and what is never asked.

By the reward model's own hidden states, so that nothing else is needed; see `evals/coverage.py` for what is counted and
`evals/asking/embedding.py` for how texts become points. A conversation is all its turns as one text.

Left out: responses (a policy may also leave what was learned by what it answers; its KL says how far), and a model made
for embedding.

Run it: `palate coverage runs/demo/reward --prompts runs/demo/prompts.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palate import disk
from palate.corpus import read_prompts, read_rankings
from palate.errors import DataError
from palate.evals.asking.embedding import LONGEST, embedded
from palate.evals.coverage import covered, frame_of, nearest, regions
from palate.evals.page import Report
from palate.intervals import Floats
from palate.lm.sources.zoo import Precision
from palate.recipe import Data, Reward, RewardRecipe, parse_recipe, read_tree
from palate.records import Prompt, Ranking
from palate.rewards.mix import Mix
from palate.stages.common import sharing
from palate.stages.measuring.coverage_report import Judged, describe, mapped

MAP = "map.svg"


def coverage(
    reward: str,
    prompts: Path,
    out: Path,
    *,
    rankings: Path | None = None,
    held_out: Path | None = None,
    neighbours: int = 10,
    precision: Precision = "auto",
    seed: int = 0,
    max_tokens: int = 4096,
) -> None:
    """Measure, and write ``report.html``, ``report.json`` and the map alone, ``map.svg``, into ``out``.

    Args:
        reward: a reward model's run or model directory.
        prompts: of reinforcement.
        rankings: that it learned from; absent: those that its run's recipe names.
        held_out: judgements that it did not learn from.

    Raises:
        DataError: a file that cannot be used, or a reward model that does not say what it learned from.
    """
    trained = read_prompts(_learned_from(reward) if rankings is None else Data(path=str(rankings)))
    asked = read_prompts(Data(path=str(prompts)))
    judged = () if held_out is None else read_rankings(Data(path=str(held_out))).records
    judge = Mix((Reward(model=reward),), precision=precision, max_tokens=max_tokens, settle=sharing([]))
    source = judge.learned[0]
    wrong, prompt_ids = _errors(judge, judged) if judged else (np.zeros(0), [])
    groups = [trained.records, asked.records, list({each.prompt.id: each.prompt for each in judged}.values())]
    texts = [text_of(each) for group in groups for each in group]
    distinct = list(dict.fromkeys(texts))  # so that what is the same is in the same place
    each, cut = embedded(source.model, source.loaded.chat.tokenizer, distinct, max_tokens=max_tokens)
    place_of = {text: place for place, text in enumerate(distinct)}
    points = each[[place_of[text] for text in texts]]
    train, ours, others = np.split(points, np.cumsum([len(group) for group in groups])[:-1])
    frame = frame_of(train)
    places = frame(train), frame(ours)
    found = covered(*places, neighbours=neighbours, seed=seed)
    parts = regions(*places, [text_of(each) for each in groups[0]], found.reached, seed=seed)
    shared = len({text_of(each) for each in groups[0]} & {text_of(each) for each in groups[1]})
    report = Report(
        f"Coverage: {reward}",
        f"{len(ours):,} prompts of {prompts} beside {len(train):,} that it learned from; {shared:,} are both",
    )
    about = None
    if judged:
        by_id = dict(
            zip(
                (each.id for each in groups[2]),
                nearest(frame(others), places[0], neighbours, others=True).mean(1),
                strict=True,
            )
        )
        about = Judged(
            distances=np.array([by_id[prompt_id] for prompt_id in prompt_ids]), wrong=wrong, prompt_ids=prompt_ids
        )
    if cut:
        report.text(
            "Cut", f"Of {cut} texts that are longer than {LONGEST} tokens, or than the model's own, the last are read."
        )
    describe(report, found, [text_of(each) for each in groups[1]], places, parts, about, seed=seed)
    report.data("prompts", [each.id for each in groups[1]])
    out.mkdir(parents=True, exist_ok=True)
    disk.write_text(out / MAP, mapped(places, found) + "\n")
    report.write(out)


def text_of(prompt: Prompt) -> str:
    """All turns of the conversation."""
    return "\n".join(message.content for message in prompt.messages)


def _learned_from(reward: str) -> Data:
    path = Path(reward) / "recipe.toml"
    if not path.is_file():
        raise DataError(f"{reward} has no recipe that says what it learned from: name it with --rankings")
    return parse_recipe(RewardRecipe, read_tree(path), where=str(path)).data


def _errors(judge: Mix, rankings: Sequence[Ranking]) -> tuple[Floats, list[str]]:
    """[N] of every strictly ordered pair: 1 where the reward model has it the other way round, and their prompts."""
    responses = [(ranking.prompt, each.text) for ranking in rankings for each in ranking.responses]
    scores = judge([prompt for prompt, _ in responses], [text for _, text in responses]).double().numpy()
    starts = np.cumsum([0, *(len(ranking.responses) for ranking in rankings)])
    margins, prompt_ids = [], []
    for start, ranking in zip(starts.tolist(), rankings, strict=False):
        for better, worse in ranking.pairs:
            margins.append(scores[start + better] - scores[start + worse])
            prompt_ids.append(ranking.prompt.id)
    if not margins:
        raise DataError("the held-out judgements prefer nothing to anything")
    return (1 - np.sign(margins)) / 2, prompt_ids
