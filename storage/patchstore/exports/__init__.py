"""Cloud-Optimised GeoTIFFs from a store, or from any rows."""
