"""The CPU benchmark: its models, its variants, their processes, the measurement and the table."""
