"""Reading, cleaning, de-duplicating, splitting and augmenting records: pure functions, no Ray."""
