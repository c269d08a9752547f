"""What a run is: configuration, presets, directory, checkpoint."""
