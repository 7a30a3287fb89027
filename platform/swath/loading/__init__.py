"""Loading: batches of augmented patches, read ahead by processes."""
