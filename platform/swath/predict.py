"""Scores of an array in memory (`swath.prediction.streaming`)."""

from swath.prediction.streaming import predict_array as predict_array
