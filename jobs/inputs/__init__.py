"""Sources: where items come from, and how one becomes uint8 arrays."""
