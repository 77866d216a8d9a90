"""config.json of published models, for estimates that need no weights."""

LLAMA_7B: dict[str, object] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
"""https://huggingface.co/huggyllama/llama-7b"""
