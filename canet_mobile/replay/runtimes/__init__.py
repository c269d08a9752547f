"""What runs a package on this machine: one module per target, each with ``open_device(package, threads)``."""
