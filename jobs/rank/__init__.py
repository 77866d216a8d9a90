"""What every rank has: its context, process group, stop flag, watchdog and preflight."""
