"""The embedded benchmark: drawn scenes and texts about them, in the M-BEIR release layout.

Read in this order: :mod:`~data_modules.synthetic.scenes` (what is true),
:mod:`~data_modules.synthetic.drawing` (how it looks), :mod:`~data_modules.synthetic.texts` (how it is said),
:mod:`~data_modules.synthetic.tasks` (who searches for what), :mod:`~data_modules.synthetic.benchmark`
(writing it down). :mod:`~data_modules.synthetic.pretraining` teaches a small MLLM the same scenes.
"""
