//! Teams: the tenants. A team owns sandboxes, API keys and byoc hosts; people belong to it with a role.

mod store;

pub use store::{TeamRow, of_user};
