"""What is reported of critiques and revisions: how much they change, by which principle, and what that looks like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from palate.evals import plots
from palate.evals.report import Report
from palate.intervals import Estimate, ratio_estimate
from palate.stages.ai_feedback.judge_report import Numbers, with_interval
from palate.stages.ai_feedback.revised import Revised
from palate.words import count_words

EXAMPLES = 8
"""Of revisions that changed something, the first so many."""


def metrics(revised: Sequence[Revised]) -> dict[str, float]:
    """Of a step."""
    kept = [each for each in revised if not each.left_out]
    changed = {"revise/changed": sum(each.changed for each in kept) / len(kept)} if kept else {}
    return changed | {"revise/left_out": 1 - len(kept) / len(revised)}


def figures(revised: Sequence[Revised], *, seed: int) -> tuple[Numbers, Counter[str]]:
    """Numbers by name, and why prompts gave no demonstration."""
    kept = [each for each in revised if not each.left_out]
    numbers: Numbers = {
        "prompts": len(revised),
        "demonstrations": len(kept),
        "without_demonstration": len(revised) - len(kept),
        "unchanged": sum(not each.changed for each in kept),
        **with_interval("changed", changed_share(kept, seed)),
        **with_interval("words_kept", _mean([kept_words(each) for each in kept], seed)),
        "words_of_drafts": _mean([count_words(each.draft) for each in kept], seed).value,
        "words_of_revisions": _mean([count_words(_text(each)) for each in kept], seed).value,
    }
    return numbers, Counter(each.left_out for each in revised if each.left_out)


def changed_share(kept: Sequence[Revised], seed: int) -> Estimate:
    """How many say something else than their draft."""
    changed = [float(each.changed) for each in kept]
    return ratio_estimate(changed, [1.0] * len(changed), seed=seed, share=True)


def kept_words(each: Revised) -> float:
    """Share of the draft's words that stand in the revision in the same order; 1 where there were none."""
    before, after = each.draft.split(), _text(each).split()
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(before) if before else 1.0


def add_parts(report: Report, revised: Sequence[Revised]) -> None:
    """Pictures, tables and examples."""
    report.text("Whose demonstrations these are", "A model's, no person's: the author of every one says so.")
    kept = [each for each in revised if not each.left_out]
    names = list(dict.fromkeys(round_.principle for each in kept for round_ in each.revisions))
    by_name = {name: [each for each in kept if name in [r.principle for r in each.revisions]] for name in names}
    shares = [changed_share(by_name[name], 0) for name in names]
    if names:
        report.figure("By which principle was something changed?", plots.bars_with_intervals(names, shares))
    header = ["principle", "demonstrations", "changed", "words of the draft kept", "words before", "words after"]
    rows = [
        [
            name,
            len(found),
            str(share),
            f"{sum(map(kept_words, found)) / len(found):.3f}",
            f"{sum(count_words(each.draft) for each in found) / len(found):.1f}",
            f"{sum(count_words(_text(each)) for each in found) / len(found):.1f}",
        ]
        for (name, found), share in zip(by_name.items(), shares, strict=True)
    ]
    report.table("By principle", header, rows, "95% intervals, by prompt.")
    shown = [each for each in kept if each.changed][:EXAMPLES]
    report.side_by_side("Before and after", [_example(each) for each in shown])
    same = [each for each in kept if not each.changed][: EXAMPLES // 2]
    if same:
        report.side_by_side("Revisions that changed nothing", [_example(each) for each in same])
    reasons = Counter(each.left_out for each in revised if each.left_out)
    if reasons:
        report.table("Prompts without a demonstration", ["why", "how many"], reasons.most_common())


def _example(each: Revised) -> dict[str, object]:
    row: dict[str, object] = {"prompt": each.prompt.text}
    for number, revision in enumerate(each.revisions, 1):
        mark = f" {number}" if len(each.revisions) > 1 else ""
        row |= {f"principle{mark}": revision.principle, f"draft{mark}": revision.draft}
        row |= {f"critique{mark}": revision.critique}
    return row | {"revision": _text(each)}


def _text(each: Revised) -> str:
    return each.response.text if each.response else ""


def _mean(values: Sequence[float], seed: int) -> Estimate:
    return ratio_estimate(values, [1.0] * len(values), seed=seed)
