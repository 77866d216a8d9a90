"""Building a corpus: source files in, published shards out."""
