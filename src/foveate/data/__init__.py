"""From files on disk to batches: manifest, splits, decoding, augmentation, loading."""
