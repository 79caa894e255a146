"""The `tgmae` command: the one room that knows both the pipeline and the trainer."""
