"""The network: backbones, heads, decoders, metadata, and how they are put together."""

# Registers our layers, so that a saved model loads wherever this package is imported.
from foveate.models import build as build
