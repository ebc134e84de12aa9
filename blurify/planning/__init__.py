"""Decide about every site of a traced model: the plan is pure and says what will be rewritten."""
