"""Where is what was seen, when, in how many units, and for how long? Analyses of a run folder, one file a question.

Nothing large is trained: closed-form decoders (:mod:`questions`) of the responses of some units in some stretch of
time, and, where the run is aligned, its own model with the other units removed from the data (:mod:`model`).

    RUN/analyses/<analysis>/<session>.json    one part a session, kept: an interrupted analysis goes on from there
    RUN/analyses/<analysis>.json and .png     the result with its intervals, and its figure
"""
