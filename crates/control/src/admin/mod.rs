//! What platform admins do to the installation as a whole: who brings own hosts, who is active, who is an admin.
//! Whether the caller is an admin is asked of the database by `http/caller.rs` at each call.

mod lists;
mod switches;
#[cfg(test)]
mod tests;

pub use lists::{
    HostFilter, NamedHost, SandboxFilter, SandboxRow, TeamFilter, TeamRow, UserFilter, UserRow, hosts, sandboxes,
    teams, user, users,
};
pub use switches::{AdminError, set_active, set_admin, set_byoc};
