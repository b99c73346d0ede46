"""From files, tables and the Hub to columns `image`, `label`, `file` and, where known, `source` and `group`."""
