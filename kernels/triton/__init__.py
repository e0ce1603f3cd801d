"""Triton kernels of the ``triton`` target; nothing here is imported before the target is used."""
