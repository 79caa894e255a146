"""What stages hand one another: Arrow tables, shard samples, stage records, experiment config.

Imports pyarrow, pydantic and numpy, nothing heavier, so that every room can read every contract.
"""
