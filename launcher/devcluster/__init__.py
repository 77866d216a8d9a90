"""A real Slurm cluster on one machine: see `DevCluster`.

Everything else talks to Slurm through `launcher.slurm`, a user's view of a site. This package calls Slurm's commands
itself, as administrator of the Slurm that it starts.
"""

from launcher.devcluster.cluster import ClusterStatus, DevCluster
from launcher.devcluster.config import Shape

__all__ = ["ClusterStatus", "DevCluster", "Shape"]
