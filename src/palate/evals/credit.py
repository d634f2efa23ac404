"""Credit made visible: the tokens of sampled responses, coloured by what reinforcement learning made of each.

A row of ``samples.jsonl`` that a stage of reinforcement learning wrote has under ``credit`` the text of every token of
its response and, for each of them, the numbers of `QUANTITIES`. `credit_html` shows them; the run's report and the web
app's page of a run both call it, and `CREDIT_CSS` is the sheet of both. There is no script in it: radio buttons choose
the quantity, and a token that is pointed at or stepped to says its numbers. Rows without credit, those of older runs
among them, are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from palate.evals.shades import LEVELS, shade_class, shade_rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number that every token of a response has.

    Attributes:
        key: in the samples.
        name: in words.
        letter: of its classes and its colours.
        about: what it is.
        unit: said behind the number.
        least: the scale ends no nearer to zero than this, so that rounding is not shown in full colour.
    """

    key: str
    name: str
    letter: str
    about: str
    unit: str = ""
    least: float = 0.0


QUANTITIES = (
    Quantity(key="advantage", name="advantage", letter="a", about="above zero made likelier, below less likely"),
    Quantity(key="reward", name="reward", letter="r", about="the price of its KL; on the last token the score too"),
    Quantity(
        key="kl", name="KL", letter="k", about="how much likelier than under the reference", unit=" nats", least=0.05
    ),
    Quantity(key="value", name="value", letter="v", about="what the value model expected before the token"),
)
"""In the order in which they are offered; the first is shown at first, the last where there is a value model."""

ROUNDING = 0.01
"""Nats a token: what policy and reference differ by with the same weights, at most (docs/concepts/precision.md)."""

MARKS = {code: chr(0x2400 + code) for code in range(32)} | {9: "⇥\t", 10: "↵\n", 127: "␡"}
"""How white space and control characters are shown."""

PART = "◦"
"""In place of a token that only begins a character, which a later one completes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """One response, token by token.

    Attributes:
        tokens: their texts.
        numbers: by the quantity's key, one for each token; None where undefined.
        score: of the whole response.
    """

    prompt: str
    tokens: Sequence[str]
    numbers: Mapping[str, Sequence[float | None]]
    score: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Credit | None:
        """From a row of the samples; None where it has none that can be shown."""
        said = row.get("credit")
        if not isinstance(said, Mapping) or not said.get("tokens"):
            return None
        tokens = said["tokens"]
        numbers = {q.key: said[q.key] for q in QUANTITIES if len(said.get(q.key, ())) == len(tokens)}
        if not {"advantage", "reward", "kl"} <= numbers.keys():
            return None
        return cls(prompt=str(row.get("prompt", "")), tokens=tokens, numbers=numbers, score=row.get("score"))


Step = tuple[int, Sequence[Credit]]


def credit_of_steps(rows: Iterable[Mapping[str, Any]]) -> list[Step]:
    """The credit of the first step that has any, of the one in the middle and of the last."""
    by_step: dict[int, list[Credit]] = {}
    for row in rows:
        if (credit := Credit.of(row)) is not None:
            by_step.setdefault(int(row.get("step", 0)), []).append(credit)
    steps = sorted(by_step)
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    return [(step, by_step[step]) for step in chosen]


def credit_html(steps: Sequence[Step], *, opened: Sequence[int]) -> str:
    """The responses of some steps with one switch and one scale for each quantity; safe to be put into a page.

    Args:
        steps: as `credit_of_steps` gives them, in any order.
        opened: which of the steps are unfolded.
    """
    limits = {quantity: _limit(quantity, steps) for quantity in QUANTITIES}
    present = [q for q in QUANTITIES if any(q.key in credit.numbers for _, credits in steps for credit in credits)]
    options = "".join(_option(quantity, limits[quantity]) for quantity in present)
    parts = [
        f"<details{' open' if step in opened else ''}><summary>Step {step}</summary>"
        + "".join(_figure(credit, limits, f"credit-{step}-{place}") for place, credit in enumerate(credits))
        + "</details>"
        for step, credits in steps
    ]
    return (
        f'<div class="credit"><fieldset><legend>Colour the tokens by</legend>{options}</fieldset>'
        '<p class="key">What is below zero is orange and underlined. Point at a token, or step to it with the Tab key, '
        f"for its numbers.</p>{''.join(parts)}</div>"
    )


def sentence(credit: Credit) -> str:
    """In words: which token cost most and why, and where the blame went."""
    cost, place = _cost(credit)
    return f"{cost}; {_blame(credit, place)}."


def shown(token: str) -> str:
    """A token's text with marks for what would not be seen."""
    marked = token.translate(MARKS)
    if marked and not marked.isspace() and not any(char.isprintable() for char in marked):
        return "".join(f"U+{ord(char):04X}" for char in marked)
    return marked or PART


def number(value: float | None) -> str:
    """Four digits, with a true minus sign."""
    return "undefined" if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _cost(credit: Credit) -> tuple[str, int | None]:
    """Which token cost most, in words and by its place; None where none did."""
    kls, rewards = ([_known(x) for x in credit.numbers[key]] for key in ("kl", "reward"))
    score = f"the score, {number(credit.score)}, arrives"
    if max(map(abs, kls)) < ROUNDING:
        return f"Policy and reference agree on every token to within {ROUNDING} nats, and {score} on the last one", None
    place = rewards.index(min(rewards))
    if rewards[place] >= 0:
        return f"No token cost anything, and {score} on the last one", None
    there = f"{score} there, and " if place == len(rewards) - 1 else ""
    way = "more" if kls[place] > 0 else "less"
    likelier = f"it was {number(abs(kls[place]))} nats {way} likely than under the reference"
    return f"{_named(credit, place)} cost most, {number(-rewards[place])}: {there}{likelier}", place


def _blame(credit: Credit, named: int | None) -> str:
    """Where the blame went; ``named`` is the token that was spoken of."""
    advantages = [_known(x) for x in credit.numbers["advantage"]]
    place, last = advantages.index(min(advantages)), len(advantages) - 1
    if advantages[place] == max(advantages):
        return f"every token has the same advantage, {number(advantages[0])}"
    if advantages[place] >= 0:
        return "none was blamed, as no advantage is below zero"
    which = "it too" if place == named else _named(credit, place)
    said = f"the most blame, an advantage of {number(advantages[place])}, fell on {which}"
    if "value" not in credit.numbers or place == last:
        return said
    before, after = (_known(x) for x in credit.numbers["value"][place : place + 2])
    if before == after:
        return f"{said}, over which the value stayed at {number(before)}"
    return (
        f"{said}, over which the value {'fell' if after < before else 'rose'} from {number(before)} to {number(after)}"
    )


def _named(credit: Credit, place: int) -> str:
    text = shown(credit.tokens[place])
    which = "the last token" if place == len(credit.tokens) - 1 else f"token {place + 1} of {len(credit.tokens)}"
    return f"“{text.strip() or text}” ({which})"


def _figure(credit: Credit, limits: Mapping[Quantity, float], anchor: str) -> str:
    tokens = "".join(_token(credit, place, limits) for place in range(len(credit.tokens)))
    sums = {key: number(sum(_known(x) for x in credit.numbers[key])) for key in ("kl", "reward")}
    said = f"{sentence(credit)} Score {number(credit.score)}; in all KL {sums['kl']} nats and reward {sums['reward']}."
    return (
        f'<figure><p class="asked" dir="auto">{escape(credit.prompt)}</p>'
        f'<a class="past" href="#{anchor}">Past the tokens</a>'
        f'<ol role="list" dir="auto" aria-label="The response, token by token">{tokens}</ol>'
        f'<figcaption id="{anchor}" tabindex="-1" dir="auto">{escape(said)}</figcaption></figure>'
    )


def _token(credit: Credit, place: int, limits: Mapping[Quantity, float]) -> str:
    found = {q: credit.numbers[q.key][place] for q in QUANTITIES if q.key in credit.numbers}
    classes = " ".join(filter(None, (shade_class(q.letter, _known(x), limits[q]) for q, x in found.items())))
    style = f' class="{classes}"' if classes else ""
    told = ", ".join(f"{q.name} {number(x)}{q.unit}" for q, x in found.items())
    part = "" if credit.tokens[place] else " (part of a character)"
    tip = f'<span class="tip"> token {place + 1} of {len(credit.tokens)}{part}: {told} </span>'
    return f'<li tabindex="0"{style}>{escape(shown(credit.tokens[place]))}{tip}</li>'


def _option(quantity: Quantity, limit: float) -> str:
    checked = " checked" if quantity is QUANTITIES[0] else ""
    ends = "0 throughout"
    if limit:
        ends = f'<span>{number(-limit)}</span><span class="ramp"></span><span>{number(limit)}{quantity.unit}</span>'
    title = quantity.name[0].upper() + quantity.name[1:]
    return (
        f'<label><input type="radio" name="credit-by" value="{quantity.letter}"{checked}>'
        f'<span><b>{title}</b>: {quantity.about}</span><span class="ends">{ends}</span></label>'
    )


def _limit(quantity: Quantity, steps: Sequence[Step]) -> float:
    """Where its scale ends: the largest that it is, above zero or below, in any of the responses."""
    rows = [credit.numbers.get(quantity.key, ()) for _, credits in steps for credit in credits]
    return max([quantity.least, *(abs(_known(x)) for row in rows for x in row)])


def _known(value: float | None) -> float:
    return value if value is not None else 0.0


_CHOSEN = "\n".join(
    f".credit:has([value={each.letter}]:checked) li"
    f"{{background:var(--{each.letter});border-bottom-style:var(--{each.letter}u,hidden)}}"
    for each in QUANTITIES
)

CREDIT_CSS = f"""
{shade_rules("credit", "".join(each.letter for each in QUANTITIES))}
.credit fieldset{{border:1px solid var(--grid);border-radius:.7rem;margin:1rem 0 .5rem;padding:.4rem 1rem .6rem;\
max-width:54rem}}
.credit legend{{font-weight:600;padding:0 .4rem}}
.credit label{{display:flex;flex-wrap:wrap;align-items:center;gap:.2rem .6rem;padding:.2rem 0;font-weight:400}}
.credit label>span:nth-child(2){{flex:1 1 14rem}}
.credit label b{{font-weight:600}}
.credit input{{width:1.15rem;height:1.15rem;margin:0;accent-color:var(--blue)}}
.credit :is(.key,.ends,figcaption){{color:var(--muted);font-size:.9rem}}
.credit .ends{{display:grid;grid-template-columns:5rem 7rem 6rem;align-items:center;gap:.5rem;\
font-variant-numeric:tabular-nums}}
.credit .ends>:first-child{{text-align:right}}
.credit .ramp{{height:.9rem;border:1px solid var(--grid);border-radius:.2rem;\
background:linear-gradient(to right,var(--n{LEVELS}),var(--paper),var(--p{LEVELS}))}}
.credit summary{{cursor:pointer;font-weight:600;padding:.4rem 0}}
.credit figure{{position:relative;margin:.4rem 0 .6rem;max-width:none;break-inside:avoid}}
.credit .asked{{color:var(--muted);white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0;max-width:46rem}}
.credit ol{{list-style:none;margin:.3rem 0;padding:0;line-height:2;overflow-wrap:anywhere}}
.credit li{{display:inline;white-space:pre-wrap;unicode-bidi:isolate;color:var(--ink);padding:.18em .06em;margin:0 1px;\
border-radius:.2rem;border-bottom:2px hidden var(--ink);box-shadow:0 0 0 1px var(--grid);\
background:var(--a);border-bottom-style:var(--au,hidden)}}
.credit .tip,.credit .past:not(:focus){{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);\
white-space:nowrap;user-select:none}}
.credit figcaption{{padding:0 0 2.8rem;max-width:46rem;overflow-wrap:anywhere}}
.credit li:is(:hover,:focus)>.tip{{inset:auto 0 0 0;width:auto;height:2.7rem;clip-path:none;overflow:visible;\
white-space:normal;font-size:.9rem;line-height:1.35;background:var(--paper);color:var(--ink)}}
.credit li:focus-visible{{outline:3px solid var(--blue);outline-offset:1px}}
{_CHOSEN}
@media print{{.credit{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}.credit figcaption{{padding:0}}\
.credit .past{{display:none}}.credit details::details-content{{content-visibility:visible;block-size:auto}}}}
"""
