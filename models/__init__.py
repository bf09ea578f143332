"""The paper's networks with committed weights, their data, noise layers, training and votes."""

from . import data
from .cnn import mnist_cnn
from .densenet import densenet40
from .lstm import stroke_lstm

__all__ = ["data", "densenet40", "mnist_cnn", "stroke_lstm"]
