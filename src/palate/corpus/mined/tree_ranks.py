"""Message trees: the answers to one turn that people ranked against each other, as rankings marked by their source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from palate.corpus.catalogue.format import Item
from palate.corpus.mined.mining_report import Mining
from palate.corpus.splits import conversation_id
from palate.recipe import TreeMining
from palate.records import Ranking


def tree_rankings(items: Iterable[tuple[str, Item]], settings: TreeMining, report: Mining) -> Iterator[Ranking]:
    """The rankings of trees, from the root on.

    Args:
        items: the rankings that the importer of trees gives, each with its file and line.
    """
    of_tree: Counter[str] = Counter()
    for place, item in items:
        assert isinstance(item, Ranking)
        report.read["turns with ranked answers"] += 1
        tree = conversation_id(item.prompt)
        if len(item.responses) < settings.min_responses:
            report.leave_out("turns", "fewer ranked answers than min_responses", place, item.prompt.text)
        elif not item.pairs:
            report.leave_out("turns", "all answers have the same rank", place, item.prompt.text)
        elif settings.max_per_tree and of_tree[tree] == settings.max_per_tree:
            report.leave_out("turns", "the tree has max_per_tree others above it", place, item.prompt.text)
        else:
            of_tree[tree] += 1
            report.read["trees"] = len(of_tree)
            report.made["rankings of trees"] += 1
            yield item.model_copy(update={"source": "trees"})
