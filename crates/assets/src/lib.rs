//! What the one binary carries inside.
