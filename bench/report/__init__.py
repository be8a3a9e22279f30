"""The report: a record of figures goes in; the page, its plots and the verdicts on the targets come out."""
