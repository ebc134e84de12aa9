"""Pictures of what was measured: plain values in, a matplotlib figure or Pillow frames out, and one writer of files.

matplotlib comes with `blurify[pictures]` and is imported when something is drawn. Figures are made as objects, never by
pyplot, so that no state of the caller's process is touched.
"""
