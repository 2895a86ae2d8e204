"""Run records and what is made of them: schema, statistics, leaderboards.

Nothing here imports torch or another part of petl_zoo: records are read and tables made on any machine.
"""
