"""The files that travel to the Hub with an ensemble: they import torch, transformers, Pillow and each other only."""
