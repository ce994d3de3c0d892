"""The demo: the whole loop on generated scenes and photographs."""
