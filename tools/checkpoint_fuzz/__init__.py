"""The parts of ``tools/fuzz_checkpoints.py``: damaged and forged folders, and what loading them may come to."""
