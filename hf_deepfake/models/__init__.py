"""Detectors: backbones with a two-class head and the preprocessing they were trained with."""
