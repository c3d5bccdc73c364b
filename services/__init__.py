"""The three workers: extractor, processor, publisher. Each stands on `shared` and knows none of the others."""
