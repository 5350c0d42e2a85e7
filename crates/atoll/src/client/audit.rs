//! `atoll audit`: who did what to which thing, newest first.

use atoll_client::AuditFilter;

use super::person;
use crate::cli::Global;
use crate::cli::teams::AuditArgs;
use crate::output::{self, Table};

pub async fn main(args: AuditArgs, global: &Global) -> anyhow::Result<u8> {
    let filter = AuditFilter {
        actor: args.actor,
        action: args.action,
        resource: args.resource,
        result: args.result,
        search: args.search,
        since: args.since,
        limit: Some(args.limit),
        all: args.all,
    };
    let page = person::client(&args.person, global).await?.audit_log(&filter).await?;
    if global.json {
        output::print_json(&page)?;
        return Ok(0);
    }
    let mut table = Table::new(&["TIME", "WHO", "ACTION", "RESOURCE", "RESULT", "FROM"]);
    for entry in page.items {
        let who = entry.actor_name.or(entry.actor_id).unwrap_or_else(|| entry.actor_kind.as_str().to_owned());
        table.row([
            entry.at.format("%Y-%m-%d %H:%M:%S").to_string(),
            who,
            entry.action,
            entry.resource_id.unwrap_or(entry.resource_kind),
            entry.result,
            entry.address.unwrap_or_default(),
        ]);
    }
    table.print()?;
    Ok(0)
}
