"""Acting on runs: debug, stop, resume, send to W&B."""
