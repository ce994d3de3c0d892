"""The model-based test: random commands, kills and outages against what has to be true."""
