"""Core ML: one multifunction .mlpackage, or one package per entry for iOS 17."""
