"""How result pages are made: templates, tables, plots."""
