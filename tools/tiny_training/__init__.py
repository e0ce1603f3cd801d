"""The parts of ``tools/train_tiny.py``: corpus, tokenizer, objective, optimizer, loop, export."""
