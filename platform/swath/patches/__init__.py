"""Patches of a split: which ones exist, how often and in which order each is drawn, and the overlap of splits."""

from swath.patches.planning import PatchPlan, plan

__all__ = ["PatchPlan", "plan"]
