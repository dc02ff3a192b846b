"""Fetching data sets: archives from their publishers, resumed and checked."""
