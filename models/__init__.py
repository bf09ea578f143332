"""The paper's networks with committed weights, their data, noise layers, training and votes."""

from . import data
from .cnn import mnist_cnn

__all__ = ["data", "mnist_cnn"]
