"""ML Programs (.mlpackage) read from their files and run in NumPy: a reference for where Core ML is not."""
