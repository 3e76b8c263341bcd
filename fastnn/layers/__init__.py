"""Layers: configuration, and the ops they emit."""

from .base import Input, Layer, Weight
from .core import Activation, Dense, Dropout, Flatten, Rescaling

__all__ = [
    "Activation",
    "Dense",
    "Dropout",
    "Flatten",
    "Input",
    "Layer",
    "Rescaling",
    "Weight",
]
