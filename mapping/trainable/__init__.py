"""Training through a chip: layers whose forward is a fresh chip each step, with gradients through its physics."""
