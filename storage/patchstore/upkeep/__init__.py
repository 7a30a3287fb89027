"""Auditing a store, and listing and removing its scenes and versions."""

from patchstore.upkeep.auditing import ClassTotal, SceneAudit, audit, audit_scene, class_totals, scene_names
from patchstore.upkeep.inventory import Entry, Version, collect, remove, versions

__all__ = ["ClassTotal", "Entry", "SceneAudit", "Version", "audit", "audit_scene", "class_totals", "collect", "remove",
           "scene_names", "versions"]
