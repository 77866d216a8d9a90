#!/bin/bash
#SBATCH --job-name='it'"'"'s; a "name"-of $TWO lines'
#SBATCH --comment='launcher 0a1b2c3d-1'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=0-00:10:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --export=ALL
#SBATCH --chdir='/it'"'"'s a "path" 100%j $HOME [x]/runs/.submissions/0a1b2c3d-1'
#SBATCH --open-mode=append
#SBATCH --output='/it'"'"'s a "path" 100%%j $HOME [x]/runs/.submissions/0a1b2c3d-1/slurm-%j.log'
# Values of the profile are meant literally:
# shellcheck disable=SC2016
set -e
export GREETING='it'"'"'s "100 %" `mine`'
export SLURM_CONF='/etc/dev cluster/slurm.conf'
export NCCL_SOCKET_IFNAME='ib0 $(hostname)'
export GLOO_SOCKET_IFNAME='ib0 $(hostname)'
export PYTHONPATH='/it'"'"'s a "path" 100%j $HOME [x]/runs/.code/0123456789abcdef'"${PYTHONPATH:+:$PYTHONPATH}"
# The batch process asks the run to stop when USR1 comes; until it listens, USR1 must not end the job.
trap '' USR1
exec '/it'"'"'s a "path" 100%j $HOME [x]/usr/bin/python3' -u -m jobs.batch.main '/it'"'"'s a "path" 100%j $HOME [x]/runs/.submissions/0a1b2c3d-1'
