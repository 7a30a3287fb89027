"""Auditing a store, listing and removing versions."""
