"""The report of a run, for a terminal, a mail or a browser.

Knows only the values of `store.queries.read.report_data`; reads no store, asks no clock.
"""
