"""Sweeps: an experiment over grids and lists of settings, resumable, on local cores or a cluster."""
