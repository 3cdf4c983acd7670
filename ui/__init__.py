"""The page: search, sort and name a collection in the browser. ``clipsearch ui`` starts it.

Everything the browser asks goes through three layers: ``security`` (who may ask, and what),
``routes`` and ``tabs`` (what was asked, checked), and ``library`` (the index, opened once).
"""
