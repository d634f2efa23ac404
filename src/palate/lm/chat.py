"""Messages to tokens and back, through the model's own chat template or one that was named.

Whoever asks, a sampler, a loss or a reward model, gets the same tokens: those of the parts that `templates/layout.py`
gives, each tokenised apart, so that a prompt's tokens are always an exact prefix of those of prompt and response. Where
the model's own rendering is another one, `differences` says so.

Only the template makes special tokens. Whoever types ``<|im_end|>`` into a message gets those ten characters, not the
end of their turn: otherwise a chat user could forge the system's or the assistant's turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise, takewhile
from typing import Any

from palate.errors import TemplateError
from palate.lm.templates import find_template
from palate.lm.templates.differences import differences
from palate.lm.templates.layout import BREAK, PROBE, QUESTION, Layout, Tools
from palate.records import Message, Prompt, content_id


class Chat:
    """A tokenizer and its template.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        layout: what its template does with a conversation.
        stop_id: the token that ends a response; part of the response.
        pad_id: another token than that, for those who must tell padding from tokens; None if there is no such token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise TemplateError("the tokenizer has no EOS token: a response could never end")
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            tokenizer.chat_template = find_template("plain", tokenizer)
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values() if token.content}
        specials = {name for name, special in added.items() if special} | set(tokenizer.all_special_tokens)
        self._special = _any_of(specials)
        self.layout = Layout(
            tokenizer, ends=_any_of(specials | set(added)), specials=self._special, spelled=self._spelled
        )
        self._special = _any_of(specials | {self.layout.stop})
        self.stop_id = int(tokenizer.convert_tokens_to_ids(self.layout.stop))
        self._anchors: dict[str, list[int]] = {}
        bos, opened = tokenizer.bos_token_id, self.prompt_tokens([QUESTION])
        if bos is not None and opened[:2] == [bos, bos]:
            raise TemplateError("the chat template adds BOS twice: remove one")
        self.pad_id = self._set_padding()

    def prompt_tokens(self, prompt: Prompt | Sequence[Message]) -> list[int]:
        """The conversation so far and the template's opening of the assistant's turn.

        Raises:
            TemplateError: the template cannot hold the conversation.
        """
        messages, tools = (prompt.messages, prompt.tools) if isinstance(prompt, Prompt) else (prompt, ())
        return [token for part, _ in self._parts(messages, tools) for token in part]

    def response_tokens(self, text: str, *, ended: bool = True) -> list[int]:
        """The response and the stop token, unless the response was cut off.

        Raises:
            TemplateError: the template opens a thought that the response does not close.
        """
        if not ended:
            return self._following(self.layout.opening, self.layout.response(text))
        self._check_thought(text)
        return self._said_tokens(self.layout.response(text))

    def dialogue_tokens(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[list[int], list[bool]]:
        """A whole conversation, and which tokens are to be learned: the assistant's, but for turns that say otherwise.

        The stop token of a turn belongs to it. What follows the last response is left out.

        Raises:
            TemplateError: the template cannot hold the conversation, or nothing in it is to be learned.
        """
        learned = [message for message in messages if message.role == "assistant" and message.learn]
        if not learned:
            raise TemplateError("no turn of the assistant's is to be learned")
        for message in learned:
            self._check_thought(message.content)
        return self._laid_out(messages, tools)

    def merges_system(self, prompt: Prompt) -> bool:
        """Whether a system turn becomes part of the user's, because the template has none."""
        return self.layout.merges_system and any(message.role == "system" for message in prompt.messages)

    def beginning_tokens(self, text: str) -> list[int]:
        """How a response begins, for a sampler to go on from; as it is written, and nothing ends it."""
        return self._following(self.layout.opening, self._spelled(text))

    def text_tokens(self, text: str) -> list[int]:
        """Raw text and the stop token, no conversation around it."""
        return [*self._tokens(self._spelled(text)), self.stop_id]

    def text(self, tokens: Sequence[int]) -> str:
        """A response's text, without the stop token and other special tokens."""
        said = [token for token in tokens if token != self.stop_id]
        return str(self.tokenizer.decode(said, skip_special_tokens=True)).strip()

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """What each token adds to the text, to the letter: white space is kept, special tokens stand by their names.

        Joined they are the whole text. A character of several bytes belongs to the token that completes it, and those
        that only begin it add nothing; bytes that make no character are U+FFFD, as decoding has them.
        """
        whole = self._decode(tokens)
        alone = [self._decode([token]) for token in tokens]
        if "".join(alone) == whole:  # as most are; what follows takes time by the square of their number
            return alone
        # of what could be said after so many tokens, that much the later ones have left as it was
        settled = [_shared(self._decode(tokens[:end]), whole) for end in range(len(tokens) + 1)]
        return [whole[start:end] for start, end in pairwise(accumulate(settled, max))]

    @cached_property
    def differences(self) -> tuple[str, ...]:
        """Where the model's own rendering of a conversation is another one than ours, a line each."""
        tokens, _ = self._laid_out(PROBE, ())
        return differences(self.layout, merges=tokens != self._tokens(self.layout.own(PROBE)))

    @cached_property
    def fingerprint(self) -> str:
        """The same for two that give the same tokens for the same conversation."""
        return content_id(*map(str, self._laid_out(PROBE, ())[0]), str(self.layout.merges_system))

    def _laid_out(self, messages: Sequence[Message], tools: Tools) -> tuple[list[int], list[bool]]:
        end = max(index for index, message in enumerate(messages) if message.role == "assistant") + 1
        tokens: list[int] = []
        mask: list[bool] = []
        for part, is_learned in self._parts(messages[:end], tools):
            tokens += part
            mask += [is_learned] * len(part)
        return tokens, mask

    def _parts(self, messages: Sequence[Message], tools: Tools) -> Iterable[tuple[list[int], bool]]:
        """Tokens of what is given and of what is said, in turn, and whether they are to be learned."""
        for number, turn in enumerate(self.layout.turns(messages, tools)):
            yield self._following(self.layout.stop, turn.before) if number else self._tokens(turn.before), False
            if turn.message is not None:
                yield self._said_tokens(turn.said), turn.message.learn

    def _said_tokens(self, said: str) -> list[int]:
        return [*self._following(self.layout.opening, said), self.stop_id]

    def _following(self, anchor: str, text: str) -> list[int]:
        """Tokens of a text as they are behind another one.

        Many tokenizers treat the beginning of a text in their own way. Where they merge it with what stands before it,
        it is tokenised alone: what stands before is there already.
        """
        first, *others = text.split(BREAK)
        if anchor not in self._anchors:
            self._anchors[anchor] = self._encode(anchor)
        before, both = self._anchors[anchor], self._encode(anchor + first)
        tokens = both[len(before) :] if both[: len(before)] == before else self._encode(first)
        return tokens + [token for part in others for token in self._following(self.layout.stop, part)]

    def _tokens(self, text: str) -> list[int]:
        first, *others = text.split(BREAK)
        return self._encode(first) + [token for part in others for token in self._following(self.layout.stop, part)]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _spelled(self, text: str) -> str:
        """What people and models wrote, with the names of special tokens broken up so that they stay text."""
        plain = text.replace(BREAK, "")
        return self._special.sub(lambda found: found[0][0] + BREAK + found[0][1:], plain)

    def _check_thought(self, text: str) -> None:
        if not self.layout.closes_thought(text):
            raise TemplateError(
                "no </think> in the response, while the chat template begins every response within a thought: name "
                'one that does not by chat_template, such as "deepseek-r1-distill" or "qwen3"'
            )

    def _set_padding(self) -> int | None:
        """Let the tokenizer pad with a token that never ends a response."""
        specials = [
            self.tokenizer.pad_token_id,
            self.tokenizer.unk_token_id,
            *sorted(self.tokenizer.added_tokens_decoder),
        ]
        ends = {self.stop_id, self.tokenizer.eos_token_id, None}
        chosen = next((token for token in specials if token not in ends and self._is_special(token)), None)
        if chosen is not None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(chosen)
        return chosen

    def _is_special(self, token: int) -> bool:
        known = self.tokenizer.added_tokens_decoder.get(token)
        return token in self.tokenizer.all_special_ids or (known is not None and known.special)


def _shared(text: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    if other.startswith(text):
        return len(text)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False)))


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
