"""Turns recipes into Slurm jobs and watches them. Never imports torch."""

__version__ = "0.1.0"
