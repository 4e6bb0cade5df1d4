"""The whole way: every stage in order, the demo, learning rates, what a configuration will cost."""
