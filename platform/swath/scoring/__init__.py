"""The score of whole scenes: counts, metrics, intervals, protocol, and the maps of other tools."""
