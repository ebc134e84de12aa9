"""Many models at once: which (`catalogue`), one (`job`), isolated (`pool`, `cluster`), recorded (`ledger`)."""
