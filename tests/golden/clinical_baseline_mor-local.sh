#!/bin/bash
# Values of the profile are meant literally:
# shellcheck disable=SC2016
set -e
cd /runs/.submissions/0a1b2c3d-1
umask 077
export NCCL_SOCKET_IFNAME=lo
export GLOO_SOCKET_IFNAME=lo
export PYTHONPATH=/runs/.code/0123456789abcdef"${PYTHONPATH:+:$PYTHONPATH}"
# The batch process asks the run to stop when USR1 comes; until it listens, USR1 must not end the job.
trap '' USR1
exec /usr/bin/python3 -u -m jobs.batch.main /runs/.submissions/0a1b2c3d-1 --local
