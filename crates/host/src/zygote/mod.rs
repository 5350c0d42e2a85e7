//! The zygote: a small single-threaded process from which all sandboxes are cloned.
