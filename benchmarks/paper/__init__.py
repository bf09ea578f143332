"""The paper's tables and figures from the networks that come with Mho: what `benchmarks/paper.py` runs."""
