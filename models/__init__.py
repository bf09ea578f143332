"""The paper's networks with committed weights, their data, noise layers, training and votes."""

from . import data
from .cnn import mnist_cnn, mnist_cnn4
from .densenet import densenet22, densenet40, densenet100
from .lstm import stroke_lstm
from .resnet import resnet32

__all__ = ["data", "densenet22", "densenet40", "densenet100", "mnist_cnn", "mnist_cnn4", "resnet32", "stroke_lstm"]
