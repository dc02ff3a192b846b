"""A cache and a head -> answers to queries: search in the terminal, the web service, and its page.

A stage that stands on another: the gallery's embeddings are those that `clipret embed` writes, kept beside the run.
"""
