"""One module per command; each exposes the command under its own name."""
