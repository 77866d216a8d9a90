"""Chat templates: the tokenizer's own, or one of ours by name."""

from transformers import PreTrainedTokenizerBase

from launcher.errors import LauncherError
from launcher.recipe.chat import Template

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

_MARKERS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}


def chat_template(tokenizer: PreTrainedTokenizerBase, name: Template) -> str:
    """Return the Jinja template that the recipe asks for.

    Args:
        tokenizer: Of the model.
        name: The recipe's `data.chat_template`.

    Raises:
        LauncherError: the tokenizer has no template, or lacks the tokens that the named one needs.
    """
    if name == "tokenizer":
        if not isinstance(tokenizer.chat_template, str):
            raise LauncherError(
                "data.chat_template: the tokenizer has none of its own; write `alpaca`, `llama2` or `plain`, which "
                "need no tokens of their own, or the one that the model was taught with"
            )
        return tokenizer.chat_template
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in _MARKERS.get(name, ()) if token not in vocabulary]
    if missing or tokenizer.eos_token is None:
        lacks = " and ".join(f"`{token}`" for token in missing) or "an end-of-sequence token"
        raise LauncherError(
            f"data.chat_template: `{name}` needs {lacks}, which the tokenizer lacks; write `alpaca`, `llama2` or "
            "`plain`, or add the tokens to the model"
        )
    return _NAMED[name] if _starts_with_bos(tokenizer) else _NAMED[name].replace(_BOS, "")


def _starts_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the model is used to BOS: GPT-2's tokenizer names one and does not put it anywhere."""
    return bool(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
