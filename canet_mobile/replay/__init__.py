"""Packages on devices: open and verify one, run it, measure it, and prove that it equals its checkpoint."""
