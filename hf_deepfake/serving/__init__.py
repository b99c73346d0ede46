"""Scoring images for people and programs."""
