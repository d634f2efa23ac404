"""What the page shows of single questions is what was counted."""

from __future__ import annotations

import re

import pytest

from palate.evals.card.card_page import Part, describe
from palate.evals.card.compared import rows_of
from palate.evals.page import Report
from palate.evals.protocols.all_protocols import PROTOCOLS
from palate.evals.protocols.choices import question
from palate.evals.protocols.items import Likelihood

CHOICES = ["ten letters long", "short"]
LONG, SHORT = [Likelihood(-8.0, False), Likelihood(-4.0, False)], [Likelihood(-32.0, False), Likelihood(-4.0, False)]
"""The short choice is likelier in both; by character the long one is in the first."""


def cells(page: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    section = page.split(f">{heading}</h2>")[1].split("</section>")[0]
    lines = re.findall(r"<tr>(.*?)</tr>", section.split("<tbody>")[1], flags=re.S)
    return [re.findall(r"<td[^>]*>(.*?)</td>", line, flags=re.S) for line in lines]


@pytest.mark.parametrize("section", ["piqa", "arc_easy"])
def test_a_lost_question_shows_what_was_picked_by_the_measure_that_counts(section: str) -> None:
    items = [question(f"Which, {number}?", CHOICES, 0) for number in range(40)]
    before = [LONG] * 40
    after = [SHORT if number < 7 else LONG for number in range(40)]
    scores = [[item.score(said) for item, said in zip(items, each, strict=True)] for each in (after, before)]
    protocol = PROTOCOLS[section]
    part = Part(
        protocol=protocol,
        path="x.jsonl",
        items=items,
        total=40,
        after=(scores[0], after),
        before=(scores[1], before),
        remarks=[],
    )
    report = Report("A card")
    describe(
        report,
        {section: part},
        rows_of({section: protocol}, {section: scores[0]}, {section: scores[1]}, seed=0),
        seed=0,
    )
    heading = f"{protocol.title}: questions lost and won"
    if section == "arc_easy":  # by the sum nothing has changed
        assert heading not in report.html()
        return
    rows = cells(report.html(), heading)
    assert len(rows) == 5
    for kind, asked, right, old, new in rows:
        assert kind == "lost"
        assert int(re.findall(r"\d+", asked)[0]) < 7
        assert (right, old, new) == (CHOICES[0], CHOICES[0], CHOICES[1])
    assert "7 lost, 0 won, of 40; of each 5 at most" in report.html()
    compared = cells(report.html(), "Compared")
    assert compared[0][:3] == ["PIQA", "accuracy by characters (by luck 50.0%)", "40"]
    assert compared[0][5].startswith("-17.5 points (")


def test_what_nothing_was_asked_for_is_no_comparison_and_words_have_no_thousandths() -> None:
    refusals, form, wins = PROTOCOLS["refusals"], PROTOCOLS["form"], PROTOCOLS["win_rate"]
    asked = [{"wanted": 0.0, "unwanted": 1.0, "refused_wanted": 0.0, "refused_unwanted": 0.0}] * 40
    texts = [{measure.name: 0.0 for measure in form.measures} | {"mean_words": float(n)} for n in range(40)]
    longer = [score | {"mean_words": score["mean_words"] + 4} for score in texts]
    won, even = [{"won": 1.0, "tied": 0.0}] * 40, [{"won": 0.5, "tied": 0.0}] * 40
    rows = rows_of(
        {"refusals": refusals, "form": form, "win_rate": wins},
        {"refusals": asked, "form": longer, "win_rate": won},
        {"refusals": asked, "form": texts, "win_rate": even},
        seed=0,
    )
    report = Report("A card")
    describe(report, {}, rows, seed=0)
    page = report.html()
    compared = {line[1]: line for line in cells(page, "Compared")}
    assert "refused where it should not" in compared
    assert "refused where it should" not in compared
    assert f"of {len(compared)} compared" in page
    also = {line[1]: line for line in cells(page, "Also measured")}
    assert also["refused where it should"][3:] == ["undefined"] * 3
    assert compared["words"][3:6] == ["19.5", "23.5", "+4.0 words (+4.0 to +4.0)"]
    assert "Better: Win rate, +50.0 points" in page


@pytest.mark.parametrize(("favourites", "other_right", "told"), [(18, 5, True), (17, 5, False), (18, 0, False)])
def test_a_letter_that_is_always_liked_is_told_unless_it_is_right(
    favourites: int, other_right: int, told: bool
) -> None:
    name = "commonsense_qa"
    protocol = PROTOCOLS[name]
    items = [question(f"Which, {number}?", ["A", "B"], int(number < other_right)) for number in range(20)]
    first, second = (
        [Likelihood(-1.0, False), Likelihood(-2.0, False)],
        [Likelihood(-2.0, False), Likelihood(-1.0, False)],
    )
    said = [first if number < favourites else second for number in range(20)]
    scores = [item.score(each) for item, each in zip(items, said, strict=True)]
    part = Part(protocol=protocol, path="x.jsonl", items=items, total=20, after=(scores, said), before=None, remarks=[])
    report = Report("A card")
    describe(report, {name: part}, rows_of({name: protocol}, {name: scores}, None, seed=0), seed=0)
    assert ("prefers choice" in report.html()) == told
    if told:
        assert "the model prefers choice 1 in 18 of 20 questions; right would be that one in 15" in report.html()
