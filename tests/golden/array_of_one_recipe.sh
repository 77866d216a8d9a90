#!/bin/bash
#SBATCH --job-name=pretrain
#SBATCH --comment='launcher 0a1b2c3d-1'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=0-00:10:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --export=ALL
#SBATCH --chdir=/runs/.submissions/0a1b2c3d-1
#SBATCH --open-mode=append
#SBATCH --output=/runs/.submissions/0a1b2c3d-1/slurm-%A_%a.log
#SBATCH --array=0-2
# Values of the profile are meant literally:
# shellcheck disable=SC2016
set -e
export PYTHONPATH=/runs/.code/0123456789abcdef"${PYTHONPATH:+:$PYTHONPATH}"
# The batch process asks the run to stop when USR1 comes; until it listens, USR1 must not end the job.
trap '' USR1
exec /usr/bin/python3 -u -m jobs.batch.main /runs/.submissions/0a1b2c3d-1
