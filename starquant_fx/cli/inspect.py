"""``starquant-fx inspect``."""
