"""Proximal policy optimisation: the objective, the value head, the control of the KL penalty, and the Trainer."""
