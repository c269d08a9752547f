"""Many methods on one data set: run, cache, compare, report."""
