"""Read files of strangers without running code of theirs: containers, pickles, archives and what they may name."""
