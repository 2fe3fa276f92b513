"""The morning report, for a terminal, a mail or a browser.

Knows only the plain values that `store.read.report_data` gives; opens no file, asks no clock.
"""
