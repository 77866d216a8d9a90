"""The run directory: its paths, ledger, record and metrics. Standard library only."""
