"""One page that says what was measured: tables, plots, the plan and the command, with nothing to load next to it.

The page needs `blurify[report]`; Jinja2 and matplotlib are imported when one is written.
"""
