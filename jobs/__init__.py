"""The product: what Atrous reads, writes and remembers."""
