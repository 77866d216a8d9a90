"""Sections that recipes of several kinds share."""
