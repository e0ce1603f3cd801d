"""The benchmark of exported models: its variants, what makes them, their processes, the measurement and the tables."""
