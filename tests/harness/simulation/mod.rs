//! A simulated cluster: control's reconciler and the hosts' keepers and heartbeats, the same code as in the product, over
//! records in memory, machines in memory, a network that loses what it likes and a clock that is set by hand.
//!
//! One seed is one life of a cluster: minutes of random faults and orders, second by second, then a while without
//! faults. `world` is control's side and the network, `agent` a host's, `life` draws what happens, `hosts` what happens to
//! whole hosts. The invariants are checked where they could break: at every change of a row, at the end of every second,
//! and when all has settled. `races` has no chance in it: each row of the truth table with a user in the middle.

mod agent;
mod hosts;
mod life;
mod races;
mod world;

pub use life::{Hosts, Lived, live};
pub use races::{Case, Moment, Race, TABLE, There, race};
