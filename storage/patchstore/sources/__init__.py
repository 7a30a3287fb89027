"""Rasters, masks and vector labels as data sets carry them."""
