"""ML Programs (.mlpackage) read from their files and run in PyTorch: a reference for where Core ML is not."""
