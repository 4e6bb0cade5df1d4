"""Files in, batches out: audio, manifests, shards, the plan of batches and their stream."""
