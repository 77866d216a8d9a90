"""A training on tensors without contents: what a step needs and sends, without its machines (`plan --trace`)."""
