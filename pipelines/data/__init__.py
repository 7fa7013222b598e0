"""Getting transactions and knowing what they are: sources, checks, profile, sample and holdout."""
