"""What everyone else asks the detector."""
