"""Labelled notes: from tables to samples."""
