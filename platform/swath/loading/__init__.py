"""From a plan to batches: reader processes, the ring of buffers, augmentation."""
