"""Where computation happens: the one door to backends and devices."""
