"""Maps and programs in force: what fills, attaches, reads and sweeps them."""
