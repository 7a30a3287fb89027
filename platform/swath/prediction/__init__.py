"""Whole scenes through a network: overlapping windows, blended into rows."""
