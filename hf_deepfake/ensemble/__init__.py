"""Fitting and building the voted ensemble."""
