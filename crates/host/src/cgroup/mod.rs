//! Control groups of sandboxes: limits, freezing, killing, counting; on v1, v2 and the mix of both.
//!
//! [`Hierarchies`] says once what is mounted where. [`Cgroups`] owns `atoll-<instance>/` in each hierarchy and, below it,
//! one directory per sandbox. Neither knows what a sandbox is beyond its name. Nothing is kept in memory but paths:
//! the kernel is asked each time, so a restarted agent sees the same.
