"""Compiling models that are larger than memory: part by part from their files, and on where a run was stopped."""
