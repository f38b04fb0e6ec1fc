"""The main job as stages that hand each other files in a run folder. Each stage is a command and resumes by itself.

run folder
    config.yaml metrics.csv tensorboard/ checkpoints/<stage>/     what was asked, what happened, where to resume
    inputs.json lock                                             what was read (digests), who writes here
    pretrain/ adapt/ align/ adapter/                             weights (safetensors + JSON)
    <stage>/done.json                                            its facts, and digests of all that it left
    align/embeddings.npz reconstruct/pictures.npz evaluate/results.json report.html
"""
