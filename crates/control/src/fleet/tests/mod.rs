//! Promises of the fleet: who is let in, what is kept apart, what happens when hosts misbehave; and of the schedulers.

mod connections;
mod host;
mod placing;
mod scheduling;
mod trust;
