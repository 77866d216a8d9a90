"""`make gpu`: what only a GPU can show, in one report. The driver needs the standard library alone."""
