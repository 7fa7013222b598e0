"""The command line, and the whole platform on one machine: the composition root."""
