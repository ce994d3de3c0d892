"""The model-based test: random commands, kills and outages, checked against an expected state."""
