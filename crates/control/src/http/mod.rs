//! The HTTP floor.

pub mod error;
