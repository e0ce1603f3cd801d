"""What a graph costs before it runs: operations, bytes, launches and memory by formula, and a roofline of chips."""
