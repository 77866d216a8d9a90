"""Which tokens are answers: against a slow reference, TRL's own masks, and MedCare's published ones."""

from importlib.resources import files

import numpy as np
import pytest
from transformers import AutoTokenizer

from jobs.data.chat.render import Example, Renderer
from jobs.data.chat.templates import chat_template
from launcher.errors import LauncherError
from tests.support.chat_examples import STORIES, conversations, question, tokenizer_of

TOKENIZERS = ["stories", "mistral_v1_spm32k", "gpt2_bpe50k"]
TEMPLATES = ["chatml", "llama2", "llama3", "alpaca", "plain"]
UNFIT = ("gpt2_bpe50k", "llama3")
DIALOGUE = [*question("  How are you?\n", "\n Well. "), *question("Since when?", "Since 3 o'clock (pm)…")]
SYSTEM = {"role": "system", "content": "You are a physician."}


def renderer_of(tokenizer, template, system_prompt=None):
    return Renderer(tokenizer, chat_template(tokenizer, template), system_prompt)


def ids_of(renderer, messages, **options):
    text = renderer.tokenizer.apply_chat_template(messages, chat_template=renderer.template, tokenize=False, **options)
    return renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


def stripped(messages):
    return [m | {"content": m["content"].strip()} if m["role"] == "assistant" else m for m in messages]


def slow_reference(renderer, messages):
    """Tokenise every prefix of a conversation by itself: what it adds to the prompt before it is the answer."""
    messages = stripped(messages)
    whole = ids_of(renderer, messages)
    is_answer = [False] * len(whole)
    controls = set(renderer.tokenizer.all_special_ids)
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = ids_of(renderer, messages[:number], add_generation_prompt=True)
            until = ids_of(renderer, messages[: number + 1])
            assert whole[: len(until)] == until, "a prefix is tokenised otherwise by itself"
            assert until[: len(prompt)] == prompt, "a prompt is tokenised otherwise without its answer"
            end = max(place for place, token in enumerate(until) if token in controls)
            is_answer[len(prompt) : end + 1] = [True] * (end + 1 - len(prompt))
    return whole, is_answer


@pytest.fixture(scope="module")
def real():
    english = conversations("sft/medquad_alpaca.2000.json.gz", "alpaca", 60)
    chinese = conversations("sft/medicalgpt/medical_sft_sharegpt.600.jsonl", "sharegpt", 60)
    choices = conversations("qa/medmcqa/dev.2000.jsonl", "medmcqa", 60, cop_base=1, answer="both")
    reasons = conversations("qa/pubmedqa/ori_pqal.json", "pubmedqa", 20, answer="decision_and_reason")
    return [*english, *chinese, *choices, *reasons, DIALOGUE, [SYSTEM, *DIALOGUE], [SYSTEM, *DIALOGUE[:2]]]


@pytest.mark.parametrize(
    ("name", "template"),
    [(name, template) for name in TOKENIZERS for template in TEMPLATES if (name, template) != UNFIT],
)
def test_ids_and_masks_are_those_of_the_slow_reference(real, name, template):
    renderer = renderer_of(tokenizer_of(name, with_markers=True), template)

    examples = renderer.encode(real)

    for messages, example in zip(real, examples, strict=True):
        assert isinstance(example, Example), (example, messages)
        ids, is_answer = slow_reference(renderer, messages)
        assert example.ids.tolist() == ids
        assert example.is_answer.tolist() == is_answer


@pytest.mark.parametrize("template", TEMPLATES)
def test_exactly_the_answers_are_trained_on(template):
    tokenizer = tokenizer_of("gpt2_bpe50k", with_markers=True)
    renderer = renderer_of(tokenizer, template)

    example = renderer.encode([[SYSTEM, *DIALOGUE]])[0]

    runs = np.split(example.ids, np.flatnonzero(np.diff(example.is_answer)) + 1)
    said = [tokenizer.decode(run).strip() for run in runs]
    end = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "llama2": " <|endoftext|>"}.get(template, "<|endoftext|>")
    assert said[1] == f"Well.{end}"
    assert said[3] == f"Since 3 o'clock (pm)…{end}"
    assert "physician" in said[0]
    assert "Since when?" in said[2]
    assert len(said) == (5 if template == "chatml" else 4)


def test_chatml_trains_on_no_mark_of_the_other_turns():
    """MedCare's published masks leave `<|im_start|>` and `<|im_end|>\\n` of the system and the user unmasked."""
    tokenizer = tokenizer_of("gpt2_bpe50k", with_markers=True)
    example = renderer_of(tokenizer, "chatml").encode([[SYSTEM, *DIALOGUE]])[0]

    trained = tokenizer.convert_ids_to_tokens(example.ids[example.is_answer])

    assert trained.count("<|im_start|>") == 0
    assert trained.count("<|im_end|>") == 2
    assert "Ċ" not in trained


@pytest.mark.parametrize(("ours", "theirs"), [("llama3", "llama3"), ("chatml", "qwen2_5")])
def test_masks_are_those_of_trl_but_for_line_breaks_of_the_frame(real, ours, theirs):
    template = (files("trl") / "chat_templates" / f"{theirs}_training.jinja").read_text()
    tokenizer = tokenizer_of("mistral_v1_spm32k", with_markers=True)
    renderer = renderer_of(tokenizer, ours)
    real = [[SYSTEM, *messages] if messages[0]["role"] != "system" else messages for messages in real]

    for messages, example in zip(real, renderer.encode(real), strict=True):
        marked = tokenizer.apply_chat_template(
            stripped(messages), chat_template=template, return_assistant_tokens_mask=True, return_dict=True
        )
        assert example.ids.tolist() == marked["input_ids"]
        theirs_only = np.flatnonzero(np.array(marked["assistant_masks"], bool) & ~example.is_answer)
        assert not (example.is_answer & ~np.array(marked["assistant_masks"], bool)).any()
        assert set(tokenizer.convert_ids_to_tokens(example.ids[theirs_only])) <= {"<0x0A>"}
        assert ours == "chatml" or not len(theirs_only)


def test_a_system_prompt_is_for_conversations_without_one():
    renderer = renderer_of(tokenizer_of("stories"), "alpaca", "Be brief.")

    own, given = renderer.encode([DIALOGUE, [SYSTEM, *DIALOGUE]])

    assert "Be brief." in renderer.tokenizer.decode(own.ids)
    assert "Be brief." not in renderer.tokenizer.decode(given.ids)


def test_text_that_names_a_control_token_is_no_record():
    renderer = renderer_of(tokenizer_of("stories"), "alpaca")

    good, bad = renderer.encode([DIALOGUE, question("a </s> b", "c")])

    assert isinstance(good, Example)
    assert str(bad) == "holds the name of one of the tokenizer's control tokens"


def test_the_tokenizers_own_template_is_used():
    tokenizer = tokenizer_of("stories")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '\\n' + m.role + ': ' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\\nassistant:' }}{% endif %}"
    )
    renderer = renderer_of(tokenizer, "tokenizer")
    renderer.check()

    example = renderer.encode([DIALOGUE])[0]

    ids, is_answer = slow_reference(renderer, DIALOGUE)
    assert (example.ids.tolist(), example.is_answer.tolist()) == (ids, is_answer)


def test_a_template_that_rewrites_earlier_turns_spoils_only_longer_conversations():
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ ('' if loop.last else 'old ') + m.content + eos_token }}"
        "{% else %}{{ m.content + '\\n' }}{% endif %}{% endfor %}"
    )
    renderer = Renderer(tokenizer_of("stories"), template)

    long, short = renderer.encode([DIALOGUE, DIALOGUE[:2]])

    assert str(long) == "is rendered differently by the chat template once a turn follows"
    assert isinstance(short, Example)


def test_a_template_may_refuse_a_conversation():
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + chat_template(
        tokenizer_of("stories"), "plain"
    )

    refused, taken = Renderer(tokenizer_of("stories"), template).encode([[SYSTEM, *DIALOGUE], DIALOGUE])

    assert str(refused) == "has a system prompt, which the chat template refuses"
    assert isinstance(taken, Example)
    with pytest.raises(
        LauncherError, match=r"data\.system_prompt: the chat template accepts no system prompt; leave it"
    ):
        Renderer(tokenizer_of("stories"), template, "Be brief.").check()


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_last_answer_alone_may_be_trained_on(template):
    tokenizer = tokenizer_of("gpt2_bpe50k", with_markers=True)
    every = renderer_of(tokenizer, template)
    last = Renderer(tokenizer, every.template, last_only=True)

    all_of_them, single = every.encode([DIALOGUE, DIALOGUE[:2]])
    only_one, alone = last.encode([DIALOGUE, DIALOGUE[:2]])

    assert only_one.ids.tolist() == all_of_them.ids.tolist()
    starts = np.flatnonzero(np.diff(all_of_them.is_answer.astype(int)) == 1)
    assert len(starts) == 2
    expected = all_of_them.is_answer & (np.arange(len(all_of_them.ids)) > starts[1])
    assert only_one.is_answer.tolist() == expected.tolist()
    assert alone.is_answer.tolist() == single.is_answer.tolist()


SPACED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content + eos_token }}"
    "{% else %}{{ m.content + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prompt_that_ends_in_a_space_has_the_tokens_that_it_has_in_use(name):
    renderer = Renderer(tokenizer_of(name), SPACED)
    renderer.check()

    example = renderer.encode([DIALOGUE])[0]

    assert isinstance(example, Example)
    backend = renderer.tokenizer.backend_tokenizer
    prompt = backend.encode(DIALOGUE[0]["content"] + "\nASSISTANT: ", add_special_tokens=False).ids
    assert example.ids[: len(prompt)].tolist() == prompt
    assert int(example.is_answer.argmax()) == len(prompt)
    text, _ = renderer.render(DIALOGUE)
    whole = backend.encode(text, add_special_tokens=False).ids
    assert backend.decode(example.ids.tolist(), False) == backend.decode(whole, False)
    runs = np.split(example.ids, np.flatnonzero(np.diff(example.is_answer)) + 1)
    ends = renderer.tokenizer.eos_token
    assert [backend.decode(run.tolist(), False).strip() for run in runs[1::2]] == [
        message["content"].strip() + ends for message in DIALOGUE if message["role"] == "assistant"
    ]


def test_a_token_across_the_start_of_an_answer_is_no_record():
    template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    renderer = Renderer(tokenizer_of("gpt2_bpe50k"), template)

    joined, apart = renderer.encode([question("hel", "lo"), question("hello?", "lo")])

    assert str(joined) == "shares a token between the chat template's text and an answer"
    assert isinstance(apart, Example)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for m in messages %}{{ m.content + '\\n' }}{% endfor %}", "puts no token at the end of an answer"),
        ("{{ raise_exception('no') }}", "a probe is refused by the chat template"),
        ("{{ messages | length }}", "a probe is rendered differently by the chat template"),
    ],
)
def test_a_template_without_recognisable_answers_is_refused(template, fault):
    with pytest.raises(LauncherError, match=rf"data\.chat_template: {fault}"):
        Renderer(tokenizer_of("stories"), template).check()


def test_a_prompt_that_is_tokenised_otherwise_without_its_answer_is_refused():
    """GPT-2 takes two line breaks for one token, but for two if text follows; Llama 3's tokenizer does not."""
    name, template = UNFIT

    with pytest.raises(LauncherError, match=r"ends a prompt with what becomes other tokens once an answer follows"):
        renderer_of(tokenizer_of(name, with_markers=True), template).check()


def test_templates_need_their_tokens():
    tokenizer = AutoTokenizer.from_pretrained(STORIES)

    with pytest.raises(
        LauncherError, match=r"`chatml` needs `<\|im_start\|>` and `<\|im_end\|>`, which the tokenizer lacks"
    ):
        chat_template(tokenizer, "chatml")
    with pytest.raises(LauncherError, match=r"data\.chat_template: the tokenizer has none; .*`alpaca`"):
        chat_template(tokenizer, "tokenizer")
    tokenizer.eos_token = None
    with pytest.raises(LauncherError, match=r"`alpaca` needs an end-of-sequence token"):
        chat_template(tokenizer, "alpaca")


def test_bos_is_put_where_the_tokenizer_puts_it():
    for name, starts in (("stories", True), ("mistral_v1_spm32k", True), ("gpt2_bpe50k", False)):
        tokenizer = tokenizer_of(name)
        for template in ("alpaca", "plain", "llama2"):
            ids = renderer_of(tokenizer, template).encode([DIALOGUE])[0].ids.tolist()
            assert (ids[0] == tokenizer.bos_token_id) is starts
            assert ids.count(tokenizer.bos_token_id) <= (2 if template == "llama2" or not starts else 1)
