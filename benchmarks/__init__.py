"""Side by side with what a user would pick instead. Timings live here, never in tests."""
