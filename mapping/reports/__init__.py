"""Pages for a browser, each one file without links to others: of a chip, and the parts that other pages are made of."""
