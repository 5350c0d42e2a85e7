//! Promises of the reconciler: the truth table row by row, what is done about it, absence, and deleting hosts.

mod absence;
mod deletion;
mod images;
mod memory;
mod pass;
mod sql;
mod table;
mod walks;
