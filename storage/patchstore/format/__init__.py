"""What a store looks like: names, metadata, levels, and where its bytes lie."""
