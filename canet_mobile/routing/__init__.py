"""The router, fitted to a supernet that no longer changes."""
