"""The page: a Gradio front of the query engine. Not part of this release yet."""
