"""`mlx-conv3d doctor`: does this installation compute what it should, on this machine?

Each step runs in a process of its own (`child`), which writes a row for each check; `runner` watches it, so that a
crash or a hang of compiled code is a row too. `examination` says which steps there are.
"""
