"""ABX: how often a frame sequence X is nearer to A, the same phone, than to B, another one. No training."""
