"""Data sets: test images that come with the package, training sets from the data folder or downloaded."""

from .cifar import cifar10
from .mnist_images import data_folder, mnist

__all__ = ["cifar10", "data_folder", "mnist"]
