"""The models that the package runs: LLaDA, Dream, and loading them from published folders."""
