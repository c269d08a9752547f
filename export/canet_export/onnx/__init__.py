"""ONNX packages: one graph that holds the router and every route, for ONNX Runtime."""
