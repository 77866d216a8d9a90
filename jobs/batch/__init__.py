"""The batch process of a run: it starts the ranks, watches them and decides what follows.

Standard library and `launcher.run` only, since it runs on the host even when the ranks run in a container.
"""
