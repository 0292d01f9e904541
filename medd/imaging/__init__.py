"""The one road from a file to the network's input, used by `classify` and by `learn` alike."""

from medd.imaging.pixels import load, load_levels
from medd.imaging.preprocess import PreprocessSpec, brightness, fit, normalise, preprocess

__all__ = ["PreprocessSpec", "brightness", "fit", "load", "load_levels", "normalise", "preprocess"]
