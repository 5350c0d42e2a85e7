//! What E2B calls templates and builds: `[team/]name[:tag]`, and UUIDs.

use std::str::FromStr;

use atoll_model::{BuildId, ErrorCode};

use crate::app::App;
use crate::builds::Target;
use crate::db::DbError;
use crate::http::error::{ApiError, ApiResult};
use crate::sandboxes::Owner;
use crate::teams;
use crate::templates::is_template_name;

const MAX_TAG: usize = 128;

/// What the owner's team is called before its templates' names.
pub async fn namespace(app: &App, owner: &Owner) -> Result<String, DbError> {
    Ok(teams::store::get(&app.db, &owner.team, None).await?.map(|team| team.slug).unwrap_or_default())
}

/// `text` without the namespace of the owner's own team, in the small letters that names have. Nothing when it has
/// another's.
pub async fn without_namespace(app: &App, owner: &Owner, text: &str) -> Result<Option<String>, DbError> {
    let text = text.trim().to_lowercase();
    match text.split_once('/') {
        None => Ok(Some(text)),
        Some((before, name)) if before == owner.team.as_str() || before == namespace(app, owner).await? => {
            Ok(Some(name.to_owned()))
        }
        Some(_) => Ok(None),
    }
}

/// The same for what may be another team's too, which keeps its namespace.
pub async fn with_namespace_of_others(app: &App, owner: &Owner, text: &str) -> Result<String, DbError> {
    let own = without_namespace(app, owner, text).await?;
    Ok(own.unwrap_or_else(|| text.trim().to_lowercase()))
}

/// A template that may be another team's, and maybe a tag.
pub async fn anywhere(app: &App, owner: &Owner, text: &str) -> ApiResult<Target> {
    let text = with_namespace_of_others(app, owner, text).await?;
    let Some((namespace, name)) = text.split_once('/') else { return parse("templateID", &text) };
    let target = parse("templateID", name)?;
    Ok(Target { name: format!("{namespace}/{}", target.name), ..target })
}

/// A template and maybe a tag, by name or by id. Nothing when it is in another team's namespace.
pub async fn target(app: &App, owner: &Owner, field: &'static str, text: &str) -> ApiResult<Option<Target>> {
    match without_namespace(app, owner, text).await? {
        Some(text) => parse(field, &text).map(Some),
        None => Ok(None),
    }
}

/// The same, for what has to be there.
pub async fn wanted(app: &App, owner: &Owner, text: &str) -> ApiResult<Target> {
    target(app, owner, "templateID", text).await?.ok_or_else(|| missing(text))
}

/// The words that E2B's SDKs show.
pub fn missing(text: &str) -> ApiError {
    let shown: String = text.chars().take(160).collect();
    ApiError::new(ErrorCode::NotFound, format!("template '{shown}' not found"))
}

fn parse(field: &'static str, text: &str) -> ApiResult<Target> {
    let (name, tag) = match text.split_once(':') {
        Some((name, tag)) => (name, Some(tag)),
        None => (text, None),
    };
    if !is_template_name(name) {
        let message = "a template's name has 1 to 128 lower-case letters, digits, `-` and `_`, and maybe `:` and a tag";
        return Err(ApiError::invalid(field, message));
    }
    let tag = tag.map(|tag| self::tag(field, tag)).transpose()?;
    Ok(Target { name: name.to_owned(), tag })
}

/// A tag, as E2B writes them.
pub fn tag(field: &'static str, text: &str) -> ApiResult<String> {
    part_of_tag(field, text, MAX_TAG)
}

/// A tag, or something in one, of at most `most` characters.
pub fn part_of_tag(field: &'static str, text: &str, most: usize) -> ApiResult<String> {
    let text = text.trim().to_lowercase();
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=most).contains(&text.len()) && text.bytes().all(is_plain) {
        return Ok(text);
    }
    let message = format!("a tag has 1 to {most} lower-case letters, digits, `-`, `_` and `.`");
    Err(ApiError::invalid(field, message))
}

/// The bits of a UUID that say which kind it is (8: of our own making) and that it is one.
const KIND: u128 = (8 << 76) | (2 << 62);
const LOW: u128 = (1 << 62) - 1;
const MIDDLE: u128 = (1 << 12) - 1;
const HIGH: u128 = (1 << 30) - 1;

/// A build's id as a UUID: the 20 characters as a number of 104 bits.
pub fn uuid_of(id: &BuildId) -> String {
    let digit = |byte: u8| if byte.is_ascii_digit() { byte - b'0' + 26 } else { byte - b'a' };
    let number = id.tail().bytes().fold(0_u128, |number, byte| number * 36 + u128::from(digit(byte)));
    uuid(((number >> 74) << 80) | (((number >> 62) & MIDDLE) << 64) | (number & LOW) | KIND)
}

/// The id of no build: platform templates have none.
pub fn no_uuid() -> String {
    uuid(0)
}

fn uuid(number: u128) -> String {
    let text = format!("{number:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// A build's id in either form. What isn't one names nothing.
pub fn build(text: &str) -> ApiResult<BuildId> {
    BuildId::from_str(text).ok().or_else(|| of_uuid(text)).ok_or_else(|| ApiError::not_found("build"))
}

fn of_uuid(text: &str) -> Option<BuildId> {
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let given = u128::from_str_radix(&digits, 16).ok()?;
    let mut number = (((given >> 80) & HIGH) << 74) | (((given >> 64) & MIDDLE) << 62) | (given & LOW);
    let mut tail = [0_u8; 20];
    for place in tail.iter_mut().rev() {
        let digit = (number % 36) as u8;
        *place = if digit < 26 { b'a' + digit } else { b'0' + digit - 26 };
        number /= 36;
    }
    let id = BuildId::from_str(&format!("{}{}", BuildId::PREFIX, std::str::from_utf8(&tail).ok()?)).ok()?;
    // Only what we would write ourselves.
    (uuid_of(&id).replace('-', "") == digits.to_ascii_lowercase()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_the_sdks_write_them() {
        let parsed = |text: &str| parse("name", text).map(|it| (it.name, it.tag)).ok();
        assert_eq!(parsed("my_app-1"), Some(("my_app-1".to_owned(), None)));
        assert_eq!(parsed("app:v1.0"), Some(("app".to_owned(), Some("v1.0".to_owned()))));
        for wrong in ["", ":x", "name:", "a b", "a/b", "name:a:b", "-x", "name:a/b"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_builds_uuid_looks_like_one_and_ends_are_kept() {
        for tail in ["aaaaaaaaaaaaaaaaaaaa", "99999999999999999999", "abcdefghij0123456789"] {
            let id: BuildId = format!("bld-{tail}").parse().unwrap();
            let uuid = uuid_of(&id);
            assert_eq!((uuid.len(), &uuid[14..15]), (36, "8"), "{uuid}");
            assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
            assert_eq!(build(&uuid).unwrap(), id);
        }
    }

    proptest! {
        #[test]
        fn a_build_is_known_by_its_uuid_and_nothing_else_is(_ in 0..64, text in ".{0,40}", bits in any::<u128>()) {
            let id = BuildId::new();
            prop_assert_eq!(build(&uuid_of(&id)).unwrap(), id);
            let _ = (build(&text), parse("name", &text), tag("tags", &text));
            if let Ok(id) = build(&uuid(bits)) {
                prop_assert_eq!(uuid_of(&id), uuid(bits));
            }
        }
    }
}
