"""Layers: configuration, and the ops they emit."""

from .base import Input, Layer, Symbol, Weight
from .core import Activation, Dense, Dropout, Flatten, Rescaling
from .images import RandomAffine, RandomContrast, RandomElastic, RandomErasing
from .merging import Add, Average, Concatenate, Maximum, Merge, Minimum, Multiply, Subtract
from .normalization import BatchNormalization, CosineDense, LayerNormalization, WeightNormDense
from .preprocessing import (
    Centering,
    ExampleCentering,
    MinMaxScaling,
    Standardization,
    ZCAWhitening,
)
from .regularization import (
    ActivityRegularization,
    GaussianDropout,
    GaussianNoise,
    SparsityRegularization,
)
from .units import Maxout, PReLU

__all__ = [
    "Activation",
    "ActivityRegularization",
    "Add",
    "Average",
    "BatchNormalization",
    "Centering",
    "Concatenate",
    "CosineDense",
    "Dense",
    "Dropout",
    "ExampleCentering",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "Input",
    "Layer",
    "LayerNormalization",
    "Maximum",
    "Maxout",
    "Merge",
    "MinMaxScaling",
    "Minimum",
    "Multiply",
    "PReLU",
    "RandomAffine",
    "RandomContrast",
    "RandomElastic",
    "RandomErasing",
    "Rescaling",
    "SparsityRegularization",
    "Standardization",
    "Subtract",
    "Symbol",
    "Weight",
    "WeightNormDense",
    "ZCAWhitening",
]
