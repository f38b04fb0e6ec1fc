"""The main job as stages that hand each other files in a run folder. Each stage is a command and resumes by itself.

run folder
    config.yaml metrics.csv tensorboard/ checkpoints/<stage>/     what was asked, what happened, where to resume
    pretrain/ adapt/ align/ adapter/                             weights (safetensors + JSON)
    align/embeddings.npz reconstruct/pictures.npz evaluate/results.json report.html
"""
