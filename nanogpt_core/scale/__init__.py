"""Work on several processes and machines: shared limits, a shared cache, and columns of Arrow tables."""
