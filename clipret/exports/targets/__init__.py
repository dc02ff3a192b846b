"""Forms in which a trained head leaves clipret: one file a target, that binds TARGET (target.Target)."""
