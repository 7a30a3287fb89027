"""From a trained model and a raster to a georeferenced map: GeoTIFF, picture, polygons, mosaic."""
