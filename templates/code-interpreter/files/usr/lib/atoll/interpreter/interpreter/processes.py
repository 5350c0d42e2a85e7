"""What Linux says of a process."""

from pathlib import Path

_KILL = 1 << 8  # SIGKILL in a mask of signals
_EXITING = 0x4  # of the flags in `stat`, proc(5)


def is_ending(pid: int) -> bool:
    """Whether it was killed or ends, although its parent may not have been told yet."""
    try:
        state, _parent, _group, _session, _terminal, _foreground, flags = (
            Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:7]
        )
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except (OSError, ValueError):
        return True
    masks = (line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:")))
    return state in "ZX" or bool(int(flags) & _EXITING) or any(int(mask, 16) & _KILL for mask in masks)
