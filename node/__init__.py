"""The daemon and its command line: the composition root, the only place that knows everything."""
