"""Foveate: say what you have, get the best Keras image model that fits."""
