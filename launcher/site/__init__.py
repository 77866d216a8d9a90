"""What Slurm says of a site: partitions, limits, a new profile."""
