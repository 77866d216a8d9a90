#!/bin/bash -l
#SBATCH --job-name=biomed-llama-cpt-rehearsal
#SBATCH --comment='launcher 0a1b2c3d-1'
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --gres=gpu:a100:2
#SBATCH --time=0-00:10:00
#SBATCH --partition=gpu
#SBATCH --account=my-project
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --export=ALL
#SBATCH --chdir=/runs/.submissions/0a1b2c3d-1
#SBATCH --open-mode=append
#SBATCH --output=/runs/.submissions/0a1b2c3d-1/slurm-%j.log
# Values of the profile are meant literally:
# shellcheck disable=SC2016
set -e
module load cuda/12.8
export HF_HUB_OFFLINE=1
export NCCL_SOCKET_IFNAME=ib0
export GLOO_SOCKET_IFNAME=ib0
export PYTHONPATH=/runs/.code/0123456789abcdef"${PYTHONPATH:+:$PYTHONPATH}"
# The batch process asks the run to stop when USR1 comes; until it listens, USR1 must not end the job.
trap '' USR1
exec /usr/bin/python3 -u -m jobs.batch.main /runs/.submissions/0a1b2c3d-1
