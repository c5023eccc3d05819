"""Pages that are made from the code, so that they cannot say anything else: `python -m docs.generate` renews all.

Each module makes one page: `page()` returns it, `python -m docs.generate.settings` and its like print it. A page
states facts only; what needs judgement stands in the pages that people write.
"""
