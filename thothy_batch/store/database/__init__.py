"""The DuckDB file: schema, migrations, views, and the merge of journal segments."""
