"""Data sets: test pictures that come with the package, training sets from the data folder or downloaded."""

from .mnist_images import data_folder, mnist

__all__ = ["data_folder", "mnist"]
