"""Pairs of answers for reward models and DPO: from files of several formats to token ids."""
