"""The drift detector: what live traffic looks like beside the reference of the model that serves it."""
