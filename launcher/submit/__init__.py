"""From recipes to queued runs: plan, freeze, queue."""
