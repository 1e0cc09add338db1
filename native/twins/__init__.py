"""NumPy twins: the specification that every compiled kernel must reproduce bit by bit."""
