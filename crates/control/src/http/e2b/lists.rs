//! Lists of sandboxes, with E2B's own way of paging and filtering.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use chrono::DateTime;

use super::names;
use super::sandboxes::{listed, without_tag};
use crate::app::App;
use crate::db::Millis;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::Pairs;
use crate::http::page::Cursor;
use crate::sandboxes::{Listed, Owner, Wanted, store};

const LIMIT: i64 = 100;
/// Rows looked at for one page when labels have to match.
const LOOKED_AT: i64 = 1000;
const TOTAL_RUNNING: HeaderName = HeaderName::from_static("x-total-running");
const NEXT: HeaderName = HeaderName::from_static("x-next-token");

const RUNNING: [&str; 3] = ["running", "resuming", "missing"];
const PAUSED: [&str; 2] = ["paused", "pausing"];

/// The query of a list.
struct Query {
    wanted: Wanted,
    metadata: BTreeMap<String, String>,
    limit: i64,
}

/// A page of the team's sandboxes, running and paused, the latest first unless asked otherwise.
pub async fn page(State(app): State<App>, Key(owner): Key, Pairs(pairs): Pairs) -> ApiResult<Response> {
    let mut response = answer(&app, &owner, query(pairs)?).await?;
    let running = store::running(&app.db, &owner.team).await?;
    response.headers_mut().insert(TOTAL_RUNNING, HeaderValue::from(running));
    Ok(response)
}

/// All that run, for older SDKs.
pub async fn running(State(app): State<App>, Key(owner): Key, Pairs(pairs): Pairs) -> ApiResult<Response> {
    let mut query = query(pairs)?;
    query.wanted.statuses = RUNNING.to_vec();
    query.limit = LOOKED_AT;
    answer(&app, &owner, query).await
}

async fn answer(app: &App, owner: &Owner, mut query: Query) -> ApiResult<Response> {
    let team = &owner.team;
    if let Some(template) = query.wanted.template.take() {
        query.wanted.template = Some(names::with_namespace_of_others(app, owner, &template).await?);
    }
    let batch = if query.metadata.is_empty() { query.limit + 1 } else { LOOKED_AT };
    let mut page: Vec<Listed> = Vec::new();
    let full = |page: &Vec<Listed>| i64::try_from(page.len()).unwrap_or(i64::MAX) > query.limit;
    loop {
        let rows = app.sandboxes.list_by_start(team, &query.wanted, batch).await?;
        let last = i64::try_from(rows.len()).unwrap_or(0) < batch;
        query.wanted.after = rows.last().map(place);
        page.extend(
            rows.into_iter().filter(|row| {
                query.metadata.iter().all(|(name, value)| row.record.metadata.0.get(name) == Some(value))
            }),
        );
        if last || full(&page) {
            break;
        }
    }
    let more = full(&page);
    page.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
    let next = page.last().filter(|_| more).map(|row| {
        let (at, id) = place(row);
        Cursor { at, id }.encode()
    });
    let items: Vec<_> = page.iter().map(listed).collect();
    let mut response = axum::Json(items).into_response();
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert(NEXT, next);
    }
    Ok(response)
}

fn place(row: &Listed) -> (Millis, String) {
    (row.record.started_at.unwrap_or(row.record.created_at), row.record.id.to_string())
}

fn query(pairs: Vec<(String, String)>) -> ApiResult<Query> {
    let mut query = Query { wanted: Wanted::default(), metadata: BTreeMap::new(), limit: LIMIT };
    for (name, value) in pairs {
        match name.as_str() {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIMIT).contains(limit));
                let wrong = || ApiError::invalid("limit", format!("must be between 1 and {LIMIT}"));
                query.limit = limit.ok_or_else(wrong)?;
            }
            "nextToken" if !value.is_empty() => {
                let cursor = Cursor::decode(&value).map_err(|mut error| {
                    error.field = Some("nextToken".into());
                    error
                })?;
                query.wanted.after = Some((cursor.at, cursor.id));
            }
            "order" => query.wanted.oldest_first = value == "asc",
            "state" => query.wanted.statuses.extend(states(&value)?),
            "metadata" => query.metadata.extend(labels(&value)),
            "startedAfter" => {
                let wrong = |_| ApiError::invalid("startedAfter", "must be a time as 2026-01-31T12:00:00Z");
                let at = DateTime::parse_from_rfc3339(&value).map_err(wrong)?;
                query.wanted.started_after = Some(Millis(at.timestamp_millis()));
            }
            "template" if !value.is_empty() => query.wanted.template = Some(without_tag(&value).to_owned()),
            _ => {}
        }
    }
    if query.wanted.statuses.is_empty() {
        query.wanted.statuses = [&RUNNING[..], &PAUSED[..]].concat();
    }
    Ok(query)
}

/// States are joined by commas, which may have been encoded once more.
fn states(text: &str) -> ApiResult<Vec<&'static str>> {
    let text = text.replace("%2C", ",").replace("%2c", ",");
    let mut statuses = Vec::new();
    for state in text.split(',').map(str::trim).filter(|state| !state.is_empty()) {
        match state {
            "running" => statuses.extend(RUNNING),
            "paused" => statuses.extend(PAUSED),
            _ => return Err(ApiError::invalid("state", "must be running, paused, or both")),
        }
    }
    Ok(statuses)
}

/// Labels come encoded twice: the whole, and in it each name and value.
fn labels(text: &str) -> BTreeMap<String, String> {
    let once = percent(text);
    let pairs = once.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (percent(name), percent(value)))
        .collect()
}

fn percent(text: &str) -> String {
    let encoded = format!("x={text}").replace('&', "%26").replace('+', "%20");
    form_urlencoded::parse(encoded.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_are_read_as_the_sdks_write_them() {
        // `metadata=a%252520b%3Dc%252526d` on the wire, decoded once by the query's own parser.
        let expected = BTreeMap::from([("a b".to_owned(), "c&d".to_owned())]);
        assert_eq!(labels("a%2520b=c%2526d"), expected);
        assert_eq!(labels("a%20b=c%26d"), BTreeMap::from([("a b".into(), "c".into()), ("d".into(), String::new())]));
        assert!(labels("").is_empty());
    }

    #[test]
    fn states_may_be_encoded_once_more() {
        assert_eq!(states("running%2Cpaused").unwrap(), states("running,paused").unwrap());
        assert!(states("gone").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = (labels(&text), states(&text), query(vec![("nextToken".into(), text.clone()), ("limit".into(), text)]));
        }
    }
}
