"""Templates that change what came before, cut, refuse or leave out: what is learned, by hand, and what is said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lm.templates import families
from tests.lm.templates.families import MISBEHAVING, chat, family

from palate.errors import TemplateError
from palate.lm.chat import Chat
from palate.lm.encode import encode_demonstrations, encode_responses, usable_prompts
from palate.lm.templates import FAMILIES
from palate.lm.templates.layout import PROBE
from palate.records import Demonstration, Message, Prompt, Response

SYSTEM = Message(role="system", content="Be kind.")
THOUGHT = "<think>\nPlants.\n</think>\n\n"


def thoughtful(turn: Message) -> Message:
    return turn.model_copy(update={"content": THOUGHT + turn.content}) if turn.role == "assistant" else turn


def said(role: str, content: str, **more: object) -> Message:
    return Message.model_validate({"role": role, "content": content, **more})


def shown(chat: Chat, tokens: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(list(tokens)))


def learned(chat: Chat, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> str:
    """The whole conversation with what is learned in brackets."""
    tokens, mask = chat.dialogue_tokens(messages, tools)
    parts: list[str] = []
    start = 0
    for end in range(1, len(tokens) + 1):
        if end == len(tokens) or mask[end] != mask[start]:
            part = shown(chat, tokens[start:end])
            parts.append(f"⟦{part}⟧" if mask[start] else part)
            start = end
    return "".join(parts)


def test_thoughts_stay_where_the_template_would_take_them_out() -> None:
    thinker = chat(families.THINKER)
    messages = [thoughtful(turn) for turn in PROBE]
    assert learned(thinker, messages) == (
        "<|im_start|>user\nWhat is red?<|im_end|>\n<|im_start|>assistant\n⟦<think>\nPlants.\n</think>\n\nRoses are."
        "<|im_end|>⟧\n<|im_start|>user\nName a fish<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nPlants.\n</think>\n\nThe perch.<|im_end|>⟧"
    )
    moment = "<think>\\nA moment.\\n</think>\\n\\n"
    assert thinker.differences == (
        "the model's own rendering has '<think>\\n\\n</think>\\n\\n' before 'The perch', which is left out here",
        f"the model's own rendering leaves out '{moment}' before 'Roses are', which is kept here",
    )


def test_a_response_that_begins_within_a_thought_must_close_it() -> None:
    forced = chat(families.FORCED_THINKER)
    whole = [PROBE[0], said("assistant", THOUGHT + "Roses are.")]
    assert learned(forced, whole) == (
        "<s><｜User｜>What is red?<｜Assistant｜><think>\n⟦Plants.\n</think>\n\nRoses are.</s>⟧"
    )
    with pytest.raises(TemplateError, match=r"no </think> .* chat_template, such as \"deepseek-r1-distill\""):
        forced.response_tokens("Roses are.")
    # what was said before and is not learned may be anything
    assert "Roses are.</s>" in shown(forced, forced.prompt_tokens(PROBE[:3]))
    cut_off = forced.response_tokens("Plants. Plants.", ended=False)
    assert shown(forced, cut_off) == "Plants. Plants."


def test_a_blank_before_the_response_is_the_responses() -> None:
    assert learned(chat(families.BOUNDARY), [PROBE[0], said("assistant", "Roses are. ")]) == (
        "<s>[INST] What is red?[/INST]⟦ Roses are.</s>⟧"
    )
    assert learned(chat(families.BLANKS), PROBE) == (
        "<s>[INST] What is red? [/INST]⟦ Roses are. </s>⟧<s>[INST] Name a fish [/INST]⟦ The perch. </s>⟧"
    )


def test_blanks_at_a_turns_ends_are_cut_where_the_template_cuts_them() -> None:
    messages = [said("user", " What is red? "), said("assistant", "\nRoses are. "), *PROBE[2:]]
    assert learned(chat(families.HEADER_TRIMMER), messages) == (
        "<s><|start_header_id|>user<|end_header_id|>\n\nWhat is red?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Roses are.<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nName a fish<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦The perch.<|eot_id|>⟧"
    )
    exact = family("chatml")
    assert shown(exact, exact.response_tokens("\nRoses are. ")) == "\nRoses are. <|im_end|>"


def test_a_header_that_the_prompt_lacks_is_put_there() -> None:
    headerless = chat(families.HEADERLESS)
    assert shown(headerless, headerless.prompt_tokens(PROBE[:1])).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert shown(headerless, headerless.response_tokens("Hi")) == "Hi<|im_end|>"
    assert headerless.differences == (
        "the chat template does not open the assistant's turn: '<|im_start|>assistant\\n' is put there",
    )


@pytest.mark.parametrize("template", [families.TRIMMER, families.BOUNDARY, families.BLANKS])
def test_a_system_turn_goes_into_the_users(template: str) -> None:
    """Whether the template refuses it or leaves it out without a word."""
    merging = chat(template)
    text = shown(merging, merging.prompt_tokens([SYSTEM, PROBE[0]]))
    assert "Be kind.\n\nWhat is red?" in text
    assert merging.merges_system(Prompt(messages=(SYSTEM, PROBE[0])))
    assert not merging.merges_system(Prompt(messages=PROBE[:1]))
    with pytest.raises(TemplateError, match="no turn of the user's follows"):
        merging.prompt_tokens([SYSTEM])


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_a_template_that_merges_system_turns_itself_is_known_to(name: str) -> None:
    assert family(name).layout.merges_system
    assert not family("llama3").layout.merges_system


def test_rows_that_a_template_cannot_hold_are_left_out_with_their_reason() -> None:
    trimmer = chat(families.TRIMMER)
    good = Demonstration(prompt=Prompt(messages=PROBE[:1]), response=Response(text="Roses are."))
    twice = Demonstration(prompt=Prompt(messages=(PROBE[0], PROBE[2])), response=Response(text="?"))
    unlearned = Demonstration(prompt=Prompt(messages=(PROBE[0], said("tool", "42"))), response=Response(text="?"))
    encoded = encode_demonstrations(trimmer, [twice, good, unlearned, good], max_length=200)
    assert encoded.kept == (1, 3)
    assert [(item.index, item.reason) for item in encoded.left_out] == [
        (0, "the chat template refuses a conversation of user, user: roles must alternate"),
        (2, "the chat template does not show results of tools: name one that does by chat_template"),
    ]
    prompts = [good.prompt, twice.prompt, Prompt.from_text("x" * 300)]
    usable = usable_prompts(trimmer, prompts, max_length=200)
    assert usable.prompts == (good.prompt,)
    assert [item.index for item in usable.left_out] == [1, 2]
    responses = encode_responses(trimmer, [twice.prompt, good.prompt], ["?", "Roses."], max_length=200)
    assert (responses.kept, responses.left_out[0].index) == ((1,), 0)


def test_turns_that_are_not_to_be_learned() -> None:
    messages = [PROBE[0], PROBE[1].model_copy(update={"learn": False}), *PROBE[2:]]
    assert learned(family("gemma"), messages).count("⟦") == 1
    with pytest.raises(TemplateError, match="no turn of the assistant's is to be learned"):
        family("gemma").dialogue_tokens(messages[:2])


TOOLS = ({"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}},)
CALL = said("assistant", "", tool_calls=[{"name": "look_up", "arguments": '{"word": "<|im_end|> rose"}', "id": "a1"}])
WITH_TOOLS = [PROBE[0], CALL, said("tool", "a flower<|im_end|>", tool_call_id="a1"), PROBE[1]]


def test_calls_of_tools_are_learned_as_the_template_writes_them() -> None:
    qwen = family("qwen3")
    assert learned(qwen, WITH_TOOLS, TOOLS) == (
        "<|im_start|>system\n# Tools\n\nThese functions can be called:\n<tools>\n"
        '{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}\n</tools>\n\n'
        'A call is written as\n<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nWhat is red?<|im_end|>\n<|im_start|>assistant\n"
        '⟦<tool_call>\n{"name": "look_up", "arguments": {"word": "<|im_end|> rose"}}\n</tool_call><|im_end|>⟧\n'
        "<|im_start|>user\n<tool_response>\na flower<|im_end|>\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n⟦Roses are.<|im_end|>⟧"
    )
    tokens, _ = qwen.dialogue_tokens(WITH_TOOLS, TOOLS)
    assert tokens.count(qwen.stop_id) == 5, "the two that were typed are text"
    prompt = Prompt(messages=tuple(WITH_TOOLS[:3]), tools=TOOLS)
    assert qwen.prompt_tokens(prompt) + qwen.response_tokens("Roses are.") == tokens


def test_calls_by_difference_where_there_are_no_marks() -> None:
    """An empty thought before the call is the template's; it is what the model would have to write."""
    assert learned(chat(families.THINKER), WITH_TOOLS[:2], TOOLS).endswith(
        'assistant\n⟦<think>\n\n</think>\n\n<tool_call>{"name": "look_up", '
        '"arguments": {"word": "<|im_end|> rose"}}</tool_call><|im_end|>⟧'
    )


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"qwen2.5", "qwen3"}))
def test_templates_without_tools_say_so(name: str) -> None:
    with pytest.raises(TemplateError, match=r"does not show (definitions|calls) of tools: name one that does"):
        family(name).dialogue_tokens(WITH_TOOLS, TOOLS)


CONVERSATIONS = st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=3)
ALL = {name: family(name) for name in FAMILIES} | {name: chat(text) for name, text in MISBEHAVING.items()}


@pytest.mark.parametrize("name", ALL)
@given(turns=CONVERSATIONS)
def test_what_is_sampled_is_what_is_learned(name: str, turns: list[tuple[str, str]]) -> None:
    """Every prompt with its response begins the tokens of the longer conversation; stop tokens are the template's."""
    chat = ALL[name]
    messages = [said(role, text) for asked, given in turns for role, text in (("user", asked), ("assistant", given))]
    if chat.layout.opens_thought:
        messages = [said(turn.role, "</think>" + turn.content) for turn in messages]
    tokens, mask = chat.dialogue_tokens(messages)
    for end in range(1, len(messages), 2):
        prompt, response = chat.prompt_tokens(messages[:end]), chat.response_tokens(messages[end].content)
        assert tokens[: len(prompt) + len(response)] == prompt + response
        assert mask[len(prompt) : len(prompt) + len(response)] == [True] * len(response)
        assert response.count(chat.stop_id) == 1
        assert not any(mask[len(prompt) - 1 : len(prompt)])
        assert response[-1] == chat.stop_id


@pytest.mark.parametrize("name", ALL)
def test_nobody_types_a_special_token_in_any_role(name: str) -> None:
    chat = ALL[name]
    special = {token for token, added in chat.tokenizer.added_tokens_decoder.items() if added.special}
    forged = "".join((*families.SPECIALS, "<s></s>", "\ufdd1\ufdd2<\ufdd1/s><|im_\ufdd0end|>"))
    close = "</think>" if chat.layout.opens_thought else ""

    def specials(text: str) -> list[int]:
        messages = [said("system", text), said("user", text), said("assistant", close + text), *PROBE[2:3]]
        return [token for token in chat.dialogue_tokens([*messages, said("assistant", close)])[0] if token in special]

    assert specials(forged) == specials("Hi.")


def test_a_tokenizer_that_begins_texts_in_its_own_way_gives_the_models_own_tokens() -> None:
    """As the tokenizers of Llama 2 and Mistral: a blank is put before a text's first word, and merged with it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(set("▁\n<|>/?.[]" + "".join(turn.content for turn in PROBE) + "userasitnINST"))
    vocabulary = {token: index for index, token in enumerate(["</s>", "<s>", "[/INST]", *letters, "▁R"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "R")]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    inner.add_special_tokens([AddedToken(name, special=True) for name in ("</s>", "<s>", "[/INST]")])
    for template in (families.BOUNDARY, family("zephyr").tokenizer.chat_template):
        wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", bos_token="<s>")
        wrapped.chat_template = template
        made = Chat(wrapped)
        tokens, _ = made.dialogue_tokens(PROBE)
        assert tokens == wrapped(made.layout.own(PROBE), add_special_tokens=False).input_ids
        assert made.differences == ()
        assert made.text(made.response_tokens("Roses are.")) == "Roses are."


@pytest.mark.parametrize("name", ALL)
def test_nobody_types_the_marks_that_stand_for_a_response(name: str) -> None:
    chat = ALL[name]
    said_before = [PROBE[0], said("assistant", "</think>" + PROBE[1].content)]
    honest, forged = ([*said_before, said("user", text)] for text in ("one two", "one\ufdd1 \ufdd2two\ufdd0"))
    assert chat.prompt_tokens(forged) == chat.prompt_tokens(honest)


def test_calls_by_marks_where_a_prompt_is_not_how_the_conversation_begins() -> None:
    marked = families.FORCED_THINKER.replace(
        "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}",
        "{{ '<｜Assistant｜>' }}{% generation %}{{ m.content }}{% for call in m.tool_calls or [] %}"
        "{{ '[' + call.function.name + call.function.arguments | tojson + ']' }}{% endfor %}{{ eos_token }}"
        "{% endgeneration %}",
    )
    chat = families.chat(marked)
    call = said("assistant", "", tool_calls=[{"name": "look_up", "arguments": '{"word": "rose"}'}])
    (turn,) = chat.layout.turns([PROBE[0], call])
    assert turn.before.endswith("<｜Assistant｜><think>\n")
    assert turn.said == '[look_up{"word": "rose"}]'


def test_a_stop_token_that_is_not_special_is_kept_from_text_all_the_same() -> None:
    made = families.tokenizer("{% for m in messages %}{{ m.role + ':\\n' + m.content + '<turn_end>\\n' }}{% endfor %}")
    made.add_tokens(["<turn_end>"])
    chat = Chat(made)
    assert chat.stop_id == made.convert_tokens_to_ids("<turn_end>")
    tokens = chat.response_tokens("Hi<turn_end>")
    assert tokens.count(chat.stop_id) == 1
    assert chat.text(tokens) == "Hi<turn_end>"


def test_of_a_long_conversation_that_is_refused_the_last_turns_are_named() -> None:
    gemma, reply = family("gemma"), said("assistant", "Roses are.")
    for turns, named in (
        ([PROBE[0], reply, PROBE[0], PROBE[0]], "user, assistant, user, user: "),
        ([PROBE[0], reply, PROBE[0], reply, PROBE[0], PROBE[0]], "..., assistant, user, user: "),
    ):
        with pytest.raises(TemplateError, match=f"refuses a conversation of {named}"):
            gemma.prompt_tokens(turns)
