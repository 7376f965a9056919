"""Our side of each comparison: the applications that `offload` serves."""
