"""The support bundle: one archive with what a report of a problem needs. `parts` reads each part, `archive` writes them."""
