"""Explanations: which pixels and frequencies moved a score, and whether that map can be relied on."""
