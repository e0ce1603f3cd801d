"""The accuracy benchmark: what is compared, the runs, and the tables."""
