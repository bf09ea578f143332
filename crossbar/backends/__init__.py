"""Backends of tiles: see `mho.crossbar.backend`."""
