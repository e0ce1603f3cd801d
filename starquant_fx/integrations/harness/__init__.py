"""The lm-evaluation-harness with masked diffusion models, and its tasks from local files."""
