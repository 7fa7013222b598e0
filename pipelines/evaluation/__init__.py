"""What a candidate is worth: metrics with intervals, plots, the report and the model card."""
