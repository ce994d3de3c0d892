"""What every flow stands on: settings, the opened workspace, logs, progress, retries, run locks."""
