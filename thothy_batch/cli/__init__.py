"""The thin edge: options in, tables, documents and exit codes out. Knows not how anything works."""
