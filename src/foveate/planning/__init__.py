"""What fits: the machine, the data, the plan that rests on both, and what keeps a run to it."""
