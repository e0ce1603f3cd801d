"""Packed checkpoints: a compiled model as a folder that is loaded without the original model."""
