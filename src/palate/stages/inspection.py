"""Records as a model will see them: token by token, what is learned apart from what is given.

What is shown is what training encodes, by the same functions; nothing is encoded for show. The first records are shown,
all of them are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.console import Console
from rich.text import Text

from palate.errors import TemplateError
from palate.lm.chat import Chat
from palate.records import Candidates, Demonstration, Prompt, Ranking

Record: TypeAlias = Prompt | Demonstration | Ranking | Candidates | str

_LONGEST = 600
"""Tokens shown of one sequence; the number of the others is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One sequence.

    Attributes:
        title: which record, and how many tokens.
        tokens: [T] the text of each token.
        learned: [T].
    """

    title: str
    tokens: tuple[str, ...]
    learned: tuple[bool, ...]

    def runs(self) -> Iterator[tuple[bool, list[str]]]:
        """Neighbouring tokens that are alike: whether they are learned, and their texts."""
        start = 0
        for end in range(1, len(self.tokens) + 1):
            if end == len(self.tokens) or self.learned[end] != self.learned[start]:
                yield self.learned[start], list(self.tokens[start:end])
                start = end


class Preview:
    """Takes in records one by one.

    Args:
        chat: of the model that is to see them.
        max_length: longest prompt + response in tokens.
        count: records to show.
    """

    def __init__(self, chat: Chat, *, max_length: int, count: int = 3) -> None:
        self.chat, self.max_length, self.count = chat, max_length, count
        self.shown: list[Shown] = []
        self.records = self.sequences = self.tokens = self.longest = self.merged = 0

    def add(self, record: Record, place: str) -> str:
        """Encode one record as the stage that uses such records would, and count it.

        Returns:
            Why the stage would leave it out; empty if it would not.
        """
        try:
            rows = list(_encode(self.chat, record))
        except TemplateError as error:
            return str(error)
        lengths = [len(tokens) for _, tokens, _ in rows]
        if self.records < self.count:
            self.shown += [self._shown(f"{place} {what}", tokens, learned) for what, tokens, learned in rows]
        self.records += 1
        self.sequences += len(rows)
        self.tokens += sum(lengths)
        self.longest = max(self.longest, *lengths)
        if not isinstance(record, str):
            self.merged += self.chat.merges_system(record if isinstance(record, Prompt) else record.prompt)
        return f"longer than max_length = {self.max_length} tokens" if max(lengths) > self.max_length else ""

    def lines(self) -> list[str]:
        """What there is to say of all records."""
        lines = [f"differs    {line}" for line in self.chat.differences]
        if self.merged:
            lines.append(
                f"merged     {self.merged}: system turns at the beginning of the user's, the chat template has none"
            )
        if self.sequences:
            mean = self.tokens / self.sequences
            lines.append(f"tokens     {self.sequences} sequences of {mean:.1f} (mean), the longest of {self.longest}")
        return lines

    def _shown(self, title: str, tokens: Sequence[int], learned: Sequence[bool]) -> Shown:
        texts = [_printable(self._text(token)) for token in tokens[:_LONGEST]]
        if len(tokens) > _LONGEST:
            texts.append(f" ... {len(tokens) - _LONGEST} more tokens")
        return Shown(
            title=f"{title}: {len(tokens)} tokens, {sum(learned)} learned",
            tokens=tuple(texts),
            learned=(*learned[:_LONGEST], False)[: len(texts)],
        )

    def _text(self, token: int) -> str:
        """What a token adds to a text; its own name where it is less than a character."""
        tokenizer, stop = self.chat.tokenizer, self.chat.stop_id
        text = str(tokenizer.decode([stop, token])).removeprefix(str(tokenizer.decode([stop])))
        return str(tokenizer.convert_ids_to_tokens(token)) if "\N{REPLACEMENT CHARACTER}" in text else text


def _encode(chat: Chat, record: Record) -> Iterator[tuple[str, list[int], list[bool]]]:
    """Its sequences, each with a name."""
    if isinstance(record, str):
        tokens = chat.text_tokens(record)
        yield "text", tokens, [True] * len(tokens)
    elif isinstance(record, Prompt):
        tokens = chat.prompt_tokens(record)
        yield "prompt", tokens, [False] * len(tokens)
    elif isinstance(record, Demonstration):
        yield "demonstration", *chat.dialogue_tokens(record.messages, record.prompt.tools)
    else:
        opened = chat.prompt_tokens(record.prompt)
        for number, response in enumerate(record.responses, 1):
            rank = f", rank {record.ranks[number - 1]}" if isinstance(record, Ranking) else ""
            said = chat.response_tokens(response.text)
            mask = [False] * len(opened) + [True] * len(said)
            yield f"response {number} of {len(record.responses)}{rank}", opened + said, mask


def _printable(text: str) -> str:
    """With control characters written out: a file may hold what a terminal would obey."""
    return "".join(char if char == "\n" or char.isprintable() else repr(char)[1:-1] for char in text)


def show(preview: Preview) -> None:
    """Print it: in colours on a terminal, elsewhere with marks."""
    console = Console(highlight=False, soft_wrap=True)
    for line in preview.lines():
        console.print(Text(line))
    if not preview.shown:
        return
    coloured = console.is_terminal and not console.no_color
    marks = "coloured is learned" if coloured else "⟦what is learned⟧, | between tokens"
    console.print(Text(f"\nthe first records as the model sees them: {marks}, ⏎ is a line break"))
    for item in preview.shown:
        console.print(Text(f"\n{item.title}", style="bold"))
        console.print(_coloured(item) if coloured else Text(_marked(item)))


_LEARNED_STYLES, _GIVEN_STYLES = ("black on green3", "black on spring_green3"), ("on grey19", "on grey27")


def _coloured(item: Shown) -> Text:
    text = Text()
    for place, (token, learned) in enumerate(zip(item.tokens, item.learned, strict=True)):
        styles = _LEARNED_STYLES if learned else _GIVEN_STYLES
        text.append(token.replace("\n", "⏎\n"), style=styles[place % 2])
    return text


def _marked(item: Shown) -> str:
    runs = (("⟦{}⟧" if learned else "{}").format("|".join(tokens)) for learned, tokens in item.runs())
    return "".join(runs).replace("\n", "⏎\n")
