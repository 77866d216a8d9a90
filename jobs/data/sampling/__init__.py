"""Training samples of prepared corpora, in the order of training."""
