"""The model card of an export: README.md in Hugging Face's form.

text         the card, section by section, of the record (description.describe) and the run's figures
figures      metrics.json -> tables, and the model-index
metadata     what stands before the text, in YAML
preparation  how images and captions are prepared, as Python that anybody can run
markdown     tables, lists, code: text that is escaped
"""
