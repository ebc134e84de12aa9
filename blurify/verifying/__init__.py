"""The proofs that a converted model is the original with blurs in it, one proof a file.

They are run on copies, so both models stay as they are. `blurify.verify` is `proving.verify`.
"""
