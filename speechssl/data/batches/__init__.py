"""Which utterances make batch k, and how they get there: plan, stream, loaders, augmentation."""
