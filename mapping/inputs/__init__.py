"""Inputs of calls: batches, samples and their order."""
