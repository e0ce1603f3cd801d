"""Folders that are written whole or not at all: exports and checkpoints."""
