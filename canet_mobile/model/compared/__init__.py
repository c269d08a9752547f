"""The methods the paper compares CANet with, one module each (paper IV-A)."""
