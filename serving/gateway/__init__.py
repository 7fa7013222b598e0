"""This machine's stand-in for what KServe puts before a predictor in a cluster: its router and payload logger."""
