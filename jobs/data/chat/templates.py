"""Chat templates: the tokenizer's own, or one of ours by name."""

from transformers import PreTrainedTokenizerBase

from launcher.artifacts.chat_template import NO_TEMPLATE, find_missing_tokens, lacks
from launcher.errors import LauncherError
from launcher.recipe.sections.chat_sources import Template

_BOS = "{{ bos_token }}"

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LLAMA3 = (
    _BOS + "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_LLAMA2 = (
    "{% set has_system = messages[0]['role'] == 'system' %}"
    "{% for message in (messages[1:] if has_system else messages) %}"
    "{% if message['role'] == 'user' %}" + _BOS + "{{ '[INST] ' }}"
    "{% if loop.first and has_system %}"
    "{{ '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' }}"
    "{% endif %}"
    "{{ message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
_ALPACA = (
    _BOS + "{% set has_system = messages[0]['role'] == 'system' %}"
    "{% if has_system %}{{ messages[0]['content'] | trim }}{% else %}"
    "{{ 'Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.' }}{% endif %}"
    "{% for message in (messages[1:] if has_system else messages) %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\n### Instruction:\\n' + message['content'] | trim }}"
    "{% else %}{{ '\\n\\n### Response:\\n' + message['content'] | trim + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n### Response:\\n' }}{% endif %}"
)
_PLAIN = (
    _BOS + "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] | trim + '\\n' }}"
    "{% else %}{{ message['content'] | trim }}{% endif %}"
    "{% endfor %}"
)

_NAMED = {"chatml": _CHATML, "llama2": _LLAMA2, "llama3": _LLAMA3, "alpaca": _ALPACA, "plain": _PLAIN}
"""ChatML: OpenAI 2023. Llama 2 and 3: Meta's model cards. Alpaca: https://github.com/tatsu-lab/stanford_alpaca, with
a line break before the answer, so that no token spans it and what stands before. Plain: question, a space, answer."""


def chat_template(tokenizer: PreTrainedTokenizerBase, name: Template, key: str = "data.chat_template") -> str:
    """Return the Jinja template that a recipe names.

    Args:
        tokenizer: The model's.
        name: As the recipe says it.
        key: Where it stands in the recipe, for messages.

    Raises:
        LauncherError: the tokenizer has no template, or lacks the tokens that the named one needs.
    """
    if name == "tokenizer":
        if not isinstance(tokenizer.chat_template, str):
            raise LauncherError(f"{key}: {NO_TEMPLATE}")
        return tokenizer.chat_template
    fault = find_missing_tokens(name, tokenizer.get_vocab())
    if tokenizer.eos_token is None:
        fault = fault or lacks(name, "an end-of-sequence token")
    if fault:
        raise LauncherError(f"{key}: {fault}")
    return _NAMED[name] if _starts_with_bos(tokenizer) else _NAMED[name].replace(_BOS, "")


def _starts_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    # GPT-2's tokenizer names a BOS token and does not add it.
    return bool(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
