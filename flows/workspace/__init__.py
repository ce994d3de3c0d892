"""The base of all flows: settings, the opened workspace, logs, progress, retries, run locks."""
