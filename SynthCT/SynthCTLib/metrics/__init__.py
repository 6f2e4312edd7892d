"""Figures that compare a synthetic image with its reference, inside masks."""
