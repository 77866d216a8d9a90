"""A real Slurm cluster on one machine: see `DevCluster`."""

from launcher.devcluster.cluster import ClusterStatus, DevCluster
from launcher.devcluster.config import Shape

__all__ = ["ClusterStatus", "DevCluster", "Shape"]
