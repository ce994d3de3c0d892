"""Commands of `dataengine`: Typer only, each calls one flow or one query."""
