"""What a run will take, said before it runs: bytes by part, tokens, time; and whether the machine has room for it.

Rules with their formulas lie in `footprint`, what is in memory at one moment in `workload`, what there is room for in
`fitting`, two real steps for the time in `trial`. What a stage computes is told by the stage; nothing here trains.
"""
