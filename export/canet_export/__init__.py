"""What makes a package: integers, static graphs, one module per target, the manifest."""
