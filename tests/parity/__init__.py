"""Equality with other implementations: segment_anything and MobileSAM."""
