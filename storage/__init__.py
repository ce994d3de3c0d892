"""Where everything lives: catalog, object store, mask table, annotation queue; no torch."""
