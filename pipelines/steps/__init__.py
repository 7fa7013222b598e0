"""The steps of a run as plain typed functions; the KFP components and the local run both call these."""
