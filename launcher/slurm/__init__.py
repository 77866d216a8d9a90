"""The only package that talks to Slurm."""
