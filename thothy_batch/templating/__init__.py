"""The Jinja2 sandbox and its limits on work and memory; the only importer of jinja2."""
