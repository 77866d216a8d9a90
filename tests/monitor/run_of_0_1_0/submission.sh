#!/bin/bash
#SBATCH --job-name=biomed-llama-cpt-rehearsal
#SBATCH --comment='launcher fa19a50c-1'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --gres=gpu:a100:2
#SBATCH --time=0-00:10:00
#SBATCH --partition=preempt
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --export=ALL
#SBATCH --chdir=/scratch/site/runs/.submissions/fa19a50c-1
#SBATCH --open-mode=append
#SBATCH --output=/scratch/site/runs/.submissions/fa19a50c-1/slurm-%j.log
# Values of the profile are meant literally:
# shellcheck disable=SC2016
set -e
export SLURM_CONF=/scratch/site/slurm.conf
export PYTHONPATH=/scratch/site/runs/.code/02df207662a8b639"${PYTHONPATH:+:$PYTHONPATH}"
# The batch process asks the run to stop when USR1 comes; until it listens, USR1 must not end the job.
trap '' USR1
exec /scratch/venv/bin/python -u -m jobs.runtime.batch /scratch/site/runs/.submissions/fa19a50c-1
