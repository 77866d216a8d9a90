"""One recipe model a kind."""
