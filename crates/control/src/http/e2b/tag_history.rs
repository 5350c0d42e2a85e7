//! What a template's tags were given to, one after the other, as E2B's dashboard asks for it.

use std::collections::HashMap;

use axum::extract::{Path, State};

use super::template_wire as wire;
use super::{names, templates};
use crate::app::App;
use crate::builds::assignments::{self, Assignment, Group, Order};
use crate::db::Millis;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::Pairs;

/// Tags of a page, and assignments of one tag's page.
const MOST: usize = 100;
const TAGS: usize = 25;
const ASSIGNMENTS: usize = 50;
/// Of each tag in a page of tags.
const EACH: usize = 6;
const MOST_EACH: usize = 25;
const MAX_SEARCH: usize = 64;
/// Between the parts of a cursor: no tag has it.
const APART: char = '|';

const ORDERS: [(&str, Order); 4] = [
    ("latest_desc", Order::LatestFirst),
    ("latest_asc", Order::LatestLast),
    ("name_asc", Order::ByName),
    ("name_desc", Order::ByNameBackwards),
];

fn limit(field: &'static str, value: &str, most: usize) -> ApiResult<usize> {
    let limit = value.parse().ok().filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(|| ApiError::invalid(field, format!("{field} must be between 1 and {most}")))
}

fn wrong(field: &'static str) -> ApiError {
    ApiError::invalid(field, format!("{field} is none that this list gave out"))
}

/// A page of tags that is asked for.
struct Wanted {
    tags: usize,
    each: usize,
    search: String,
    sort: &'static str,
    order: Order,
    after: Option<Group>,
}

fn wanted(pairs: &[(String, String)]) -> ApiResult<Wanted> {
    let (sort, order) = ORDERS[0];
    let mut wanted = Wanted { tags: TAGS, each: EACH, search: String::new(), sort, order, after: None };
    let mut cursor = "";
    for (key, value) in pairs {
        match key.as_str() {
            "tagsLimit" => wanted.tags = limit("tagsLimit", value, MOST)?,
            "assignmentLimit" => wanted.each = limit("assignmentLimit", value, MOST_EACH)?,
            "search" => wanted.search = search(value)?,
            "sort" => {
                let known = ORDERS.into_iter().find(|(name, _)| name == value);
                let names = ORDERS.map(|(name, _)| name).join(", ");
                (wanted.sort, wanted.order) =
                    known.ok_or_else(|| ApiError::invalid("sort", format!("sort must be one of {names}")))?;
            }
            "tagsCursor" => cursor = value,
            _ => {}
        }
    }
    if !cursor.is_empty() {
        let mut parts = cursor.split(APART);
        let (sort, latest, tag) = (parts.next(), parts.next(), parts.next());
        if sort.is_some_and(|sort| sort != wanted.sort && ORDERS.iter().any(|(name, _)| *name == sort)) {
            return Err(ApiError::invalid("tagsCursor", "tagsCursor was given out for another sort: begin without it"));
        }
        let latest = latest.and_then(|latest| latest.parse().ok()).filter(|_| sort == Some(wanted.sort));
        let tag = tag.filter(|_| parts.next().is_none()).and_then(|tag| names::tag("tagsCursor", tag).ok());
        let (latest, tag) = latest.zip(tag).ok_or_else(|| wrong("tagsCursor"))?;
        wanted.after = Some(Group { tag, latest: Millis(latest) });
    }
    Ok(wanted)
}

fn search(value: &str) -> ApiResult<String> {
    let value = value.trim();
    match names::part_of_tag("search", value, MAX_SEARCH) {
        _ if value.is_empty() => Ok(String::new()),
        Err(_) => {
            let message = format!("search must have at most {MAX_SEARCH} characters, such as tags have");
            Err(ApiError::invalid("search", message))
        }
        part => part,
    }
}

fn shown(given: Assignment) -> wire::Assignment {
    wire::Assignment {
        assignment_id: given.id,
        build_id: names::uuid_of(&given.build_id.0),
        assigned_at: given.assigned_at.to_utc(),
        build_created_at: given.build_created_at.to_utc(),
        build_finished_at: given.build_finished_at.map(Millis::to_utc),
    }
}

/// A page of tags, with the last that each was given to.
pub async fn groups(
    State(app): State<App>,
    Key(owner): Key,
    Path(name): Path<String>,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<wire::TagGroups>> {
    let wanted = wanted(&pairs)?;
    let template = templates::found(&app, &owner, &name).await?.id.0;
    let (order, after) = (wanted.order, wanted.after.as_ref());
    let mut groups = assignments::groups(&app.db, &template, &wanted.search, order, after, wanted.tags + 1).await?;
    let more = groups.len() > wanted.tags;
    groups.truncate(wanted.tags);
    let next_cursor = groups.last().filter(|_| more);
    let next_cursor = next_cursor.map(|last| format!("{}{APART}{}{APART}{}", wanted.sort, last.latest.0, last.tag));
    let mut given: HashMap<String, Vec<wire::Assignment>> = HashMap::new();
    for assignment in assignments::newest(&app.db, &template, &groups, wanted.each + 1).await? {
        given.entry(assignment.tag.clone()).or_default().push(shown(assignment));
    }
    let group = |Group { tag, .. }: Group| {
        let mut assignments = given.remove(&tag).unwrap_or_default();
        let has_more = assignments.len() > wanted.each;
        assignments.truncate(wanted.each);
        wire::TagGroup { tag, assignments, has_more }
    };
    Ok(axum::Json(wire::TagGroups { tags: groups.into_iter().map(group).collect(), next_cursor }))
}

/// A page of what one tag was given to, the last first.
pub async fn of_tag(
    State(app): State<App>,
    Key(owner): Key,
    Path((name, tag)): Path<(String, String)>,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<wire::Assignments>> {
    let (mut most, mut before) = (ASSIGNMENTS, None);
    for (key, value) in &pairs {
        match key.as_str() {
            "limit" => most = limit("limit", value, MOST)?,
            "cursor" if !value.is_empty() => before = Some(place(value).ok_or_else(|| wrong("cursor"))?),
            _ => {}
        }
    }
    let tag = names::tag("tag", &tag)?;
    let template = templates::found(&app, &owner, &name).await?.id.0;
    let mut found = assignments::of_tag(&app.db, &template, &tag, before, most + 1).await?;
    let more = found.len() > most;
    found.truncate(most);
    let next_cursor = found.last().filter(|_| more);
    let next_cursor = next_cursor.map(|last| format!("{}{APART}{}", last.assigned_at.0, last.id));
    Ok(axum::Json(wire::Assignments { data: found.into_iter().map(shown).collect(), next_cursor }))
}

/// A place in the list of what one tag was given to.
fn place(cursor: &str) -> Option<(Millis, &str)> {
    let (at, id) = cursor.split_once(APART)?;
    let is_id = id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    Some((Millis(at.parse().ok()?), id)).filter(|_| is_id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_cursor_and_no_search_make_it_panic(cursor in "([a-z_]{0,11}[|]?){0,4}", search in ".{0,70}") {
            let pairs = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
            let _ = (wanted(&pairs("tagsCursor", &cursor)), wanted(&pairs("search", &search)), place(&cursor));
        }
    }
}
