"""Storage: catalog, object store, mask table, annotation queue; without torch."""
