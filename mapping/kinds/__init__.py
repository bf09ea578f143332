"""Kinds of layers that tiles can do, and the registries of them."""
