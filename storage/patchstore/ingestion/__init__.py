"""Writing a store: one scene at a time, in steps that can run anywhere."""
