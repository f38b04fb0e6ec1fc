"""What ``import neurobridge as nb`` offers: functions over the same stages, folders and sentences as the command line.

A recording is a session on disk, however it came in; a model is a run folder, with or without a name of its own. So
what is made here the command line goes on with, and the other way round. Functions give a new model and leave
the old one.
"""
