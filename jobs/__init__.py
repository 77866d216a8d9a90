"""What runs on the nodes: `python -m jobs RUN_DIR`."""
