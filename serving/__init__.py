"""What answers requests: the predictor behind KServe's inference protocol."""
