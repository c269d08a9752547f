"""TFLite / LiteRT: one file (.tflite) with a signature per route and one for the router."""
