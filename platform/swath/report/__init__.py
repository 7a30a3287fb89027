"""Tables for a terminal: what jobs print of plans, scores, ingests, audits and stores."""
