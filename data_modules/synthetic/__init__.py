"""The embedded benchmark: drawn scenes and texts about them, in the M-BEIR release layout.

Read in this order:

- :mod:`~data_modules.synthetic.scenes`: what is true; :mod:`~data_modules.synthetic.drawing`: how it looks;
- :mod:`~data_modules.synthetic.texts`, :mod:`~data_modules.synthetic.genres`,
  :mod:`~data_modules.synthetic.inquiries`: how it is said, told and asked;
- :mod:`~data_modules.synthetic.families`: near-duplicates, each scene used once;
  :mod:`~data_modules.synthetic.entities`: facts about single objects;
- :mod:`~data_modules.synthetic.tasks`: who searches for what; :mod:`~data_modules.synthetic.scene_data`,
  :mod:`~data_modules.synthetic.entity_data`: queries and candidates of each data set;
- :mod:`~data_modules.synthetic.split_writer`, :mod:`~data_modules.synthetic.benchmark`: writing it down.

:mod:`~data_modules.synthetic.dialogues` and :mod:`~data_modules.synthetic.pretraining` teach a small MLLM
scenes of the same kind.
"""
