"""Accuracy, cost and routing analysis of a trained model."""
