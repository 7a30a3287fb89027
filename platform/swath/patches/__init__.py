"""Which patches there are, with what weight and in which order each is drawn, and what they share."""

from swath.patches.planning import PatchPlan, plan

__all__ = ["PatchPlan", "plan"]
