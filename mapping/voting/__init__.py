"""Votes over repeated noisy inferences of chips, with a fixed number of reads or as many as a sample needs."""
