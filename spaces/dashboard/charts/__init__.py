"""Numbers → places on a chart, as plain dictionaries that the templates turn into SVG or tables."""
