"""Training: Trainer, checkpoints, resume, metrics, tracking, export."""
