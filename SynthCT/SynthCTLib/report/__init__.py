"""Figures and the HTML report of a finished job."""
