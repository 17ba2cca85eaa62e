"""A page about what a detector gets right and wrong on a dataset.

:func:`pair_detr.report.build.write_report` makes it of an evaluation by pycocotools, with which its numbers agree.
"""
