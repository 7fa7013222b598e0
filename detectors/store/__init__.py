"""What the detector keeps: the request log, labels, verdicts, and events that are still to be delivered."""
