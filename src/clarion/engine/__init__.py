"""One step, one pass over batches, and the epochs made of them."""
