"""Searches: the space, the trials under Ray Tune, and the study that trains the best one."""
