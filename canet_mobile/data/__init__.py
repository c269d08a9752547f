"""From an interaction log to a dataset directory, and the leave-one-out split of it."""
